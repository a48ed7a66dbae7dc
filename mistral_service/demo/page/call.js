// One call: the microphone goes out and the voice comes in over WebRTC, and RTVI messages
// (https://docs.pipecat.ai/client/rtvi-standard) come over a data channel.

const RTVI_LABEL = "rtvi-ai";
const RTVI_VERSION = "2.2.0";
const CAMERA_RECEIVER = 1; // the microphone is 0
const PING_MS = 1000; // Pipecat takes a browser that is silent for three seconds for gone.
const GATHER_MS = 3000;
const CONNECT_MS = 15000;
const ANSWER_MS = 95000; // the panel may wait for a reply to end

export const NOT_YET = "The call is not there yet: wait for the bot’s greeting.";

/** Something that keeps the call from going on; the message is a sentence for the user. */
export class CallError extends Error {}

/** The microphone, or a CallError that says what to do about it. */
export async function openMicrophone() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new CallError(
      "Browsers give the microphone only to pages of this machine or over https: " +
        `open http://localhost:${location.port || 80}/ where the demo runs.`,
    );
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
  } catch (error) {
    const words = {
      NotAllowedError:
        "The microphone is blocked: allow it for this page in the browser’s address bar, then connect again.",
      NotFoundError:
        "No microphone was found: plug one in or switch it on, then connect again.",
      NotReadableError:
        "The microphone is taken by another program: close that, then connect again.",
    };
    throw new CallError(
      words[error.name] ?? `The microphone cannot be used (${error.message}): try another one.`,
    );
  }
}

/** The camera, or a CallError that says what to do about it. */
export async function openCamera() {
  try {
    // The bot looks at single images, so that few of them a second are enough.
    return await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 10 } },
    });
  } catch (error) {
    const words = {
      NotAllowedError: "The camera is blocked: allow it in the browser’s address bar.",
      NotFoundError: "No camera was found.",
      NotReadableError: "The camera is taken by another program.",
    };
    const why = words[error.name] ?? `The camera cannot be used (${error.message}).`;
    throw new CallError(`${why} The bot hears you all the same, but sees nothing.`);
  }
}

/** Events: "message" (detail: an RTVI message), "voice" (detail: a MediaStream), and at the end
 * "ended", after "hung-up" if it was the other side that ended the call. */
export class Call extends EventTarget {
  #peer = new RTCPeerConnection();
  #microphone;
  #camera;
  #channel;
  #ping;
  #looks; // whether there is a place for a camera
  #eye; // what sends the camera's images
  #asked = new Map(); // what waits for an answer, by the id of its message
  hears = true; // it has a microphone
  over = false;

  /** `camera` may be missing: few bots look. With `looks`, it may come later, by `see`. */
  constructor(microphone, camera, looks = Boolean(camera)) {
    super();
    this.#microphone = microphone;
    this.#camera = camera;
    this.#looks = looks;
  }

  /** Resolves once media and messages flow. */
  async connect() {
    this.#channel = this.#peer.createDataChannel("rtvi", { ordered: true });
    this.#channel.addEventListener("message", (event) => this.#receive(JSON.parse(event.data)));
    this.#channel.addEventListener("close", () => this.#hungUp());
    const opened = once(this.#channel, "open");

    const [track] = this.#microphone.getAudioTracks();
    this.#peer.addTransceiver(track, { direction: "sendrecv", streams: [this.#microphone] });
    if (this.#looks) {
      const image = this.#camera?.getVideoTracks()[0] ?? "video";
      const streams = this.#camera ? [this.#camera] : [];
      this.#eye = this.#peer.addTransceiver(image, { direction: "sendonly", streams }).sender;
    }
    this.#peer.addEventListener("track", ({ track }) => {
      if (track.kind === "audio") this.#emit("voice", new MediaStream([track]));
    });
    this.#peer.addEventListener("connectionstatechange", () => {
      if (["failed", "closed"].includes(this.#peer.connectionState)) this.#hungUp();
    });

    await this.#peer.setLocalDescription();
    await Promise.race([this.#gathered(), pause(GATHER_MS)]);
    await this.#peer.setRemoteDescription(await this.#offer());
    await Promise.race([
      opened,
      pause(CONNECT_MS).then(() => {
        throw new CallError(
          "The browser and the demo found no network path to each other: open the page on the machine that runs the demo.",
        );
      }),
    ]);

    this.#ping = setInterval(() => this.#channel.send(`ping ${Date.now()}`), PING_MS);
    this.#send("client-ready", {
      version: RTVI_VERSION,
      about: { library: "mistral_service.demo" },
    });
    if (this.#looks && !this.#camera) this.#reportCamera(false);
  }

  mute(muted) {
    for (const track of this.#microphone.getAudioTracks()) track.enabled = !muted;
  }

  /** Show the bot the camera, or nothing; it learns which. */
  look(shown) {
    for (const track of this.#camera.getVideoTracks()) track.enabled = shown;
    this.#reportCamera(shown);
  }

  /** Give the bot a camera in mid-call. */
  async see(camera) {
    this.#camera = camera;
    await this.#eye.replaceTrack(camera.getVideoTracks()[0]);
    this.#reportCamera(true);
  }

  /** Whether messages flow. */
  get reachable() {
    return this.#channel?.readyState === "open";
  }

  /** Say something in writing. */
  write(text) {
    if (!this.reachable) return false;
    this.#send("send-text", { content: text });
    return true;
  }

  /** Ask the panel in the bot's pipeline; rejects with its sentence. */
  ask(type, data) {
    if (!this.reachable) return Promise.reject(new CallError(NOT_YET));
    const id = this.#send("client-message", { t: type, d: data });
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => answer({ error: "The bot does not answer." }), ANSWER_MS);
      const answer = ({ error, d }) => {
        clearTimeout(late);
        this.#asked.delete(id);
        error === undefined ? resolve(d) : reject(new CallError(error));
      };
      this.#asked.set(id, answer);
    });
  }

  close() {
    if (this.over) return;
    this.over = true;
    clearInterval(this.#ping);
    for (const stream of [this.#microphone, this.#camera]) {
      for (const track of stream?.getTracks() ?? []) track.stop();
    }
    this.#peer.close();
    for (const answer of [...this.#asked.values()]) answer({ error: "The call has ended." });
    this.#emit("ended");
  }

  async #gathered() {
    while (this.#peer.iceGatheringState !== "complete") {
      await once(this.#peer, "icegatheringstatechange");
    }
  }

  async #offer() {
    const { sdp, type } = this.#peer.localDescription;
    if (!sdp.includes("a=candidate:")) {
      throw new CallError(
        "This browser sees no network at all: connect to any network, or start Chromium with --allow-loopback-in-peer-connection.",
      );
    }
    let response;
    try {
      response = await fetch("/api/offer", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ sdp, type }),
      });
    } catch {
      throw new CallError("The demo does not answer: start it again, then connect.");
    }
    if (!response.ok) {
      const { detail } = await response.json().catch(() => ({}));
      throw new CallError(
        typeof detail === "string"
          ? detail
          : `The demo refused the call (HTTP ${response.status}): its terminal says why.`,
      );
    }
    return response.json();
  }

  #receive(message) {
    const answer = message.label === RTVI_LABEL && this.#asked.get(message.id);
    if (answer && ["server-response", "error-response"].includes(message.type)) answer(message.data);
    else if (message.label === RTVI_LABEL) this.#emit("message", message);
    else if (message.type === "signalling" && message.message?.type === "peerLeft") this.#hungUp();
  }

  #hungUp() {
    if (this.over) return;
    this.#emit("hung-up");
    this.close();
  }

  #reportCamera(enabled) {
    const message = { type: "trackStatus", receiver_index: CAMERA_RECEIVER, enabled };
    this.#channel.send(JSON.stringify({ type: "signalling", message }));
  }

  #send(type, data) {
    const id = crypto.randomUUID();
    this.#channel.send(JSON.stringify({ label: RTVI_LABEL, id, type, data }));
    return id;
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

const once = (target, name) =>
  new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
