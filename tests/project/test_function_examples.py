"""The examples of functions that come from elsewhere or take their time, run as a user would."""

from bots import printed


def test_a_bot_calls_the_functions_of_an_mcp_server():
    talk = printed("mcp_tools.py").splitlines()
    assert talk[0::3] == [
        "You: When it is nine in the morning in Tokyo, what time is it in Kolkata?",
        "You: And what time is it on Mars?",
    ]
    converted, refused = talk[1::3]
    assert converted.startswith("(convert_time: {")
    assert '"timezone": "Asia/Kolkata"' in converted
    assert "T05:30:00+05:30" in converted
    assert "No time zone found with key Mars/Olympus" in refused
    assert talk[2::3] == ["Bot: It is half past five there.", "Bot: I have no clock on Mars."]


def test_the_talk_goes_on_while_a_booking_takes_its_time():
    assert printed("async_function.py").splitlines() == [
        "You: Book a table for two on Friday, please.",
        "Bot: I have asked them. May I help meanwhile?",
        "You: What should we wear there?",
        "Bot: They do not mind: come as you are.",
        "(the restaurant confirms)",
        "Bot: Your table for two is booked, on Friday at eight.",
    ]
