// Look: the image that a function asked for, and its size before and after.

import { make } from "./make.js";

/** Shows each look, the newest first. */
export class Looks {
  #list;

  constructor(root) {
    this.#list = root.querySelector("#looks");
  }

  clear() {
    this.#list.replaceChildren();
  }

  /** An image was sent: the panel's message. */
  show({ before, after, image }) {
    const figure = make("figure");
    if (image) figure.append(make("img", { src: image, alt: "The image that was sent, made small" }));
    const caption = make("figcaption");
    caption.append(line("From the camera", before, "as pixels"));
    if (after) caption.append(line("Sent", after, "as JPEG"));
    else caption.append(make("span", { textContent: "It could not be shown." }));
    figure.append(caption);
    this.#list.prepend(figure);
    while (this.#list.children.length > 4) this.#list.lastElementChild.remove();
  }
}

function line(name, { width, height, bytes }, form) {
  return make("span", { textContent: `${name}: ${width} × ${height}, ${inBytes(bytes)} ${form}` });
}

/** A number of bytes, as people read it. */
export function inBytes(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const unit = bytes < 1e6 ? [1e3, "kB"] : [1e6, "MB"];
  const value = bytes / unit[0];
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit[1]}`;
}
