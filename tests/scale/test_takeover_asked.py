"""What a caller asked just before the machine died is answered: real Redis, real pipelines."""

from pipecat.frames.frames import (
    InterimTranscriptionFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.frameworks.rtvi.frames import RTVISendTextFrame
from recorded import STORY, Machine, asked, recorders, redis, written
from waiting import until

from mistral_service.local import Reply
from mistral_service.scale.client_report import ClientReport

__all__ = ["recorders", "redis"]  # fixtures

NOON = "It is noon."
TOO = "It is noon there too."


async def test_a_question_whose_turn_was_never_written_is_answered(serve, recorders):
    mistral = serve(Reply(NOON), Reply("Too late.", wait=30), Reply(TOO), Reply("Good night."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.call.say("What time is it?")
        await written(one.recorder)
        await one.recorder._writer.close(finish=False)  # it has no power any more, but for its ears
        await one.call.begin("And in Rome?")
        await until(lambda: len(asked(mistral)) == 2)
        recorder = await recorders.open(
            one.recorder.id, ClientReport(heard="", ended=False, asked="And in Rome?")
        )
        assert recorder.asked == "And in Rome?"
        async with Machine(mistral, recorder) as two:
            await two.call.until(lambda: two.said()[-1] == ("assistant", TOO))
            assert two.call.words == TOO
            assert two.said()[1:] == [
                ("user", "What time is it?"),
                ("assistant", NOON),
                ("user", "And in Rome?"),
                ("assistant", TOO),
            ]
            await written(recorder)
            # The same client on its way to a third machine tells the same words.
            told = {"heard": TOO, "sent": two.sent(), "ended": True, "asked": "And in Rome?"}
            async with Machine(
                mistral, await recorders.open(one.recorder.id, ClientReport(**told))
            ) as three:
                await three.goes_on()
                assert three.said() == two.said()
                assert await three.call.say("Thanks.") == "Good night."
        await one.call.interrupt()


async def test_who_says_hello_again_after_a_takeover_is_answered(serve, recorders):
    """A caller's words may be those that the call was opened with: they are no late greeting."""
    mistral = serve(Reply(STORY, pause=0.05), Reply(STORY[17:]), Reply("I am here."))
    async with Machine(mistral, await recorders.open()) as one:
        await one.call.begin("Hello?")
        await one.call.until(lambda: STORY[:17] in one.call.words)
        async with Machine(
            mistral,
            await recorders.open(one.recorder.id, ClientReport(heard=STORY[:17], sent=one.sent())),
        ) as two:
            await two.call.until(lambda: two.said()[-1] == ("assistant", STORY))
            await two.call.worker.queue_frame(RTVISendTextFrame(msg_id="1", text="Hello?"))
            await until(lambda: two.recorder._unanswered)
            assert await two.call.say("Hello?") == "I am here."


async def test_a_question_before_the_first_turn_was_written_is_answered(serve, recorders):
    mistral = serve(Reply(NOON))
    one = await recorders.open()
    await one.close(over=False)
    recorder = await recorders.open(one.id, ClientReport(asked="What time is it?"))
    async with Machine(mistral, recorder) as two:
        await two.call.until(lambda: two.call.words == NOON)
        assert two.said()[:2] == [("system", "You are a voice."), ("user", "What time is it?")]
        await written(recorder)


async def test_words_that_a_bot_has_rewritten_are_not_asked_again(serve, recorders):
    mistral = serve(Reply(STORY, pause=0.05), Reply(STORY[17:]))
    async with Machine(mistral, await recorders.open()) as one:
        raw = RTVISendTextFrame(msg_id="1", text="Tell me a story.")
        await one.call.worker.queue_frame(raw)
        await one.call.begin("[12:30, Ann] narrate")
        await one.call.until(lambda: STORY[:17] in one.call.words)
        await written(one.recorder)
        told = {"heard": STORY[:17], "sent": one.sent(), "asked": "Tell me a story."}
        async with Machine(
            mistral, await recorders.open(one.recorder.id, ClientReport(**told))
        ) as two:
            await two.call.until(lambda: two.said()[-1] == ("assistant", STORY))
            assert two.said()[1:] == [("user", "[12:30, Ann] narrate"), ("assistant", STORY)]
            assert STORY[:17] + two.call.words == STORY


async def test_what_was_spoken_is_kept_as_it_was_heard(serve, recorders):
    mistral = serve(Reply(NOON))

    async def says(*words: str) -> None:
        await one.call.worker.queue_frame(UserStartedSpeakingFrame())
        for text in words:
            heard = {"text": text, "user_id": "ann", "timestamp": "now"}
            await one.call.worker.queue_frame(InterimTranscriptionFrame(**heard))
            await one.call.worker.queue_frame(TranscriptionFrame(**heard))

    async with Machine(mistral, await recorders.open()) as one:
        await says("What time", "is it?")
        await one.call.worker.queue_frame(UserStoppedSpeakingFrame())
        await one.call.until(lambda: one.call.words == NOON)
        await one.call.until(lambda: one.said()[-1] == ("assistant", NOON))
        await written(one.recorder)
        two = await recorders.open(one.recorder.id)
        assert two._journal.asked == "What time is it?"
        assert two.asked == "What time is it?"
        await two.close(over=False)


async def test_of_words_without_end_no_more_is_noted_than_a_client_may_tell(serve, recorders):
    mistral = serve(Reply(NOON))
    async with Machine(mistral, await recorders.open()) as one:
        await one.call.worker.queue_frame(RTVISendTextFrame(msg_id="1", text="word " * 9000))
        await until(lambda: one.recorder._unanswered)
        await one.call.say("What time is it?")
        await written(one.recorder)
        two = await recorders.open(one.recorder.id)
        assert len(two._journal.asked) == 10_000
        await two.close(over=False)


async def test_spoken_words_whose_turn_had_not_begun_are_answered(serve, recorders):
    mistral = serve(Reply(NOON), Reply(TOO))
    async with Machine(mistral, await recorders.open()) as one:
        await one.call.say("What time is it?")
        await one.call.worker.queue_frame(UserStartedSpeakingFrame())
        await one.call.worker.queue_frame(TranscriptionFrame("And in Rome?", "ann", "now"))
        await until(lambda: one.recorder._unanswered)
        await written(one.recorder)
        told = {"heard": "", "ended": False, "asked": "And in Rome?"}
        async with Machine(
            mistral, await recorders.open(one.recorder.id, ClientReport(**told))
        ) as two:
            await two.call.until(lambda: two.call.words == TOO)
            assert [m for m in two.said() if m[0] == "user"][1:] == [("user", "And in Rome?")]
            assert len(asked(mistral)) == 2
