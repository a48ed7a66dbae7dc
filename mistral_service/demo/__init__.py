"""A spoken conversation in the browser, without a key and without a network.

`python -m mistral_service.demo` runs the bot of `examples/panel_bot.py` behind a page of its own:
the microphone comes in over WebRTC, Whisper hears, `MistralLLMService` answers through Mistral's
API or through the strict local endpoint, and Piper speaks. The page's panel breaks the call and
changes it while it goes on.
"""


class DemoError(Exception):
    """The demo cannot start; the message says in one sentence why, and what to do."""
