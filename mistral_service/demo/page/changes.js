// Change it: the settings of the service, in mid-call.

const NAMES = {
  temperature: "temperature",
  max_tokens: "max tokens",
  system_instruction: "system instruction",
  model: "model",
  fallback_models: "fallbacks",
};

/** The form; only what differs from the service's own settings is sent. */
export class Changes {
  #form;
  #known = {};

  /** `ask(values)` resolves to the panel's state after the change, and rejects with a sentence. */
  constructor(form, ask) {
    this.#form = form;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const values = this.#changed();
      if (!Object.keys(values).length) return this.#say("Nothing changes: all of it is as it was.");
      this.#say("Takes effect when the reply under way has ended …");
      try {
        const { changed, settings } = await ask(values);
        this.show(settings, values);
        this.#say(`Changed: ${changed.map((name) => NAMES[name]).join(", ")}.`);
      } catch (error) {
        this.#say(error.message, true);
      }
    });
  }

  /** The settings as the service has them, after `sent`; what is being edited stays. */
  show(settings, sent = {}) {
    const edited = this.#changed();
    for (const name of Object.keys(NAMES)) {
      const field = this.#form.elements[name];
      const value = settings[name];
      this.#known[name] = written(value);
      field.disabled = name === "fallback_models" && value === null;
      if (field.disabled || edited[name] === undefined || edited[name] === sent[name]) {
        field.value = this.#known[name];
      }
    }
  }

  /** A call begins, with the settings of its service. */
  clear() {
    for (const name of Object.keys(NAMES)) this.#form.elements[name].value = this.#known[name] ?? "";
    this.#say("");
  }

  #changed() {
    const entries = Object.keys(NAMES).map((name) => [name, this.#form.elements[name].value]);
    return Object.fromEntries(
      entries.filter(([name, value]) => value.trim() !== (this.#known[name] ?? "").trim()),
    );
  }

  #say(sentence, refused = false) {
    const said = this.#form.querySelector("output");
    said.textContent = sentence;
    said.classList.toggle("refused", refused);
  }
}

/** A setting as text. */
export function written(value) {
  return Array.isArray(value) ? value.join(", ") : String(value ?? "");
}
