// An element with its properties, in one line.

export function make(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
