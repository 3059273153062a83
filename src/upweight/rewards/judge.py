"""A language model as a judge, asked over an OpenAI-compatible endpoint.

    [rewards.parts.quality]
    function = "judge"
    options = { url = "http://localhost:8000/v1", model = "some-model", rubric = "1 if polite, 0 if rude" }

Requests run in one thread beside the training process, so that sampling goes on. Whatever the network or the judge
does, the outcome is a number or a `Failed`, within a time that the options bound.
"""

from __future__ import annotations

import asyncio
import os
import traceback
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, final
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from upweight.config import Positive, RewardPart, Section
from upweight.errors import UserError, nearest
from upweight.rewards.call import TRACEBACK_CHARACTERS, Failed, Kind
from upweight.rewards.verdicts import Cache, Scale, ask_again, digest, messages_for, read_verdict

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_MESSAGE_CHARACTERS = 200


class JudgeOptions(Section):
    """What a part with the function `judge` may be told; see docs/judge.md."""

    url: str = Field(description="address of the endpoint, up to and including /v1")
    model: str = Field(description="its name there")
    rubric: str = Field("", description="what is good and what is bad, as text")
    rubric_file: str = Field("", description="a file with that text, instead of `rubric`")
    key_env: str = Field("", description="name of the environment variable that holds the key; empty: none is needed")
    low: float = Field(0.0, allow_inf_nan=False, description="lowest score")
    high: float = Field(1.0, allow_inf_nan=False, description="highest score")
    concurrency: Positive = Field(8, description="requests under way at once")
    retries: Annotated[int, Field(ge=0)] = Field(3, description="further tries after errors 408, 409, 429 and 5xx")
    timeout: Annotated[float, Field(gt=0)] = Field(30.0, allow_inf_nan=False, description="seconds of one try")
    cache: str = Field("", description="a file that keeps verdicts from run to run; empty: none are kept")
    temperature: Annotated[float, Field(ge=0)] = Field(0.0, description="of the judge's sampling")
    max_tokens: Positive = Field(512, description="longest reply, tokens")


@final
class Judge:
    """Scores completions by asking, in a thread of its own; made by `load_judge`."""

    def __init__(self, asker: _Asker) -> None:
        self._asker, self._loop = asker, asyncio.new_event_loop()
        thread = Thread(target=self._loop.run_forever, name="judge", daemon=True)
        thread.start()
        self._finalizer = weakref.finalize(self, _end, self._loop, thread, asker)

    def submit(self, arguments: Mapping[str, Any]) -> Future[float | Failed]:
        """The score of a completion, by its `prompt`, `answer` and `completion`, or why there is none."""
        asked = {name: str(arguments[name]) for name in ("prompt", "answer", "completion")}
        return asyncio.run_coroutine_threadsafe(self._asker.outcome(asked), self._loop)

    def close(self) -> None:
        """Ends all requests and cancels those that wait. It happens as well when the judge is forgotten, or at exit."""
        self._finalizer()


@final
class _Asker:
    """What runs in the thread, one coroutine a completion."""

    def __init__(self, name: str, options: JudgeOptions, rubric: str, key: str, client: AsyncOpenAI) -> None:
        self._name, self._options, self._key, self._client = name, options, key, client
        self._scale = Scale(rubric, options.low, options.high)
        self._cache = Cache(options.cache) if options.cache else None
        self._turn = asyncio.Semaphore(options.concurrency)
        self._json_mode = True
        self._longest = (options.retries + 1) * options.timeout

    async def outcome(self, asked: Mapping[str, str]) -> float | Failed:
        """A score, or what went wrong, in bounded time once it is this completion's turn."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        try:
            # The client bounds each wait for bytes; this one holds for a server that drips them as well.
            async with self._turn, asyncio.timeout(self._longest):
                return await self._cached(asked)
        except (APITimeoutError, TimeoutError):
            tries, seconds = self._options.retries + 1, self._options.timeout
            return self._failed("timeout", f"no verdict from {self._options.url} in {tries} x {seconds:g} s")
        except APIStatusError as error:
            return self._failed("error", f"{self._options.url} answers: {error.message}")
        except APIConnectionError as error:
            return self._failed("error", f"cannot reach {self._options.url}: {error.__cause__ or error}")
        except Exception as error:  # whatever else a server of any make can cause in the client
            told = "".join(traceback.format_exception(error))
            return self._failed("error", f"{type(error).__name__}: {error}", told)

    async def _cached(self, asked: Mapping[str, str]) -> float | Failed:
        if self._cache is None:
            return await self._judged(asked)
        options = self._options
        key = digest(self._scale, options.model, options.temperature, options.max_tokens, asked)
        known = self._cache.get(key)
        if known is not None:
            return known
        verdict = await self._judged(asked)
        if not isinstance(verdict, Failed):
            self._cache.put(key, verdict)
        return verdict

    async def _judged(self, asked: Mapping[str, str]) -> float | Failed:
        """Asks, and once more when the reply is no verdict."""
        messages = messages_for(self._scale, asked)
        reply = await self._reply(messages)
        score = read_verdict(reply, self._scale)
        if score is None:
            reply = await self._reply(ask_again(messages, reply, self._scale))
            score = read_verdict(reply, self._scale)
        if score is None:
            return self._failed("refusal", f"twice no reply with one score in the range, at last {reply!r}")
        return score

    async def _reply(self, messages: list[dict[str, str]]) -> str:
        from openai import BadRequestError

        if self._json_mode:
            try:
                return await self._request(messages, {"response_format": {"type": "json_object"}})
            except BadRequestError:  # an endpoint without it; if something else is wrong, it is said again
                reply = await self._request(messages, {})
                self._json_mode = False
                return reply
        return await self._request(messages, {})

    async def _request(self, messages: list[dict[str, str]], further: Mapping[str, Any]) -> str:
        """The text of one reply; the client waits and tries again where that may help."""
        response: Any = await self._client.chat.completions.create(
            model=self._options.model,
            messages=messages,  # type: ignore[arg-type]
            temperature=self._options.temperature,
            max_tokens=self._options.max_tokens,
            **further,
        )
        try:
            return str(response.choices[0].message.content or "")
        except (AttributeError, IndexError, TypeError):  # not what the protocol says
            return ""

    async def close(self) -> None:
        """Cancels the other coroutines of the thread and closes connections and cache."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()
        if self._cache is not None:
            self._cache.close()

    def _failed(self, kind: Kind, message: str, told: str = "") -> Failed:
        """A failure in one line, without the key, should a server or the client have repeated it."""
        line = " ".join(self._without_key(message).split())[:_MESSAGE_CHARACTERS]
        return Failed(self._name, kind, line, self._without_key(told)[-TRACEBACK_CHARACTERS:])

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def load_judge(name: str, part: RewardPart) -> Judge:
    """The judge that a part of the config names. Asks nothing yet.

    Raises UserError for options that are unknown, missing or wrong, a key that is not there, a rubric or a cache that
    cannot be read, or a missing package.
    """
    where = f"rewards.parts.{name}"
    options = _options(where, part.options)
    rubric = _rubric(where, options)
    key = _key(where, options)
    try:
        from openai import AsyncOpenAI
    except ModuleNotFoundError:
        raise UserError(f"{where}: a judge needs the package openai: pip install 'upweight[judge]'") from None
    client = AsyncOpenAI(
        base_url=options.url, api_key=key or "none", max_retries=options.retries, timeout=options.timeout
    )
    return Judge(_Asker(name, options, rubric, key, client))


def _options(where: str, given: Mapping[str, Any]) -> JudgeOptions:
    known = JudgeOptions.model_fields
    for option in given:
        if option not in known:
            raise UserError(f"{where}.options: judge has no option {option!r}{nearest(option, known)}")
    try:
        options = JudgeOptions.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}.options.{first['loc'][0]}: {_lowered(first['msg'])}") from None
    address = urlsplit(options.url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UserError(f"{where}.options.url must be like http://localhost:8000/v1, not {options.url!r}")
    if address.username is not None or address.query:
        raise UserError(f"{where}.options.url may hold no key or password, which would be recorded: use key_env")
    if not options.low < options.high:
        raise UserError(f"{where}.options: low must be below high, but they are {options.low:g} and {options.high:g}")
    return options


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]


def _rubric(where: str, options: JudgeOptions) -> str:
    if bool(options.rubric) == bool(options.rubric_file):
        raise UserError(f'{where}.options needs either rubric = "..." or rubric_file = "..."')
    if options.rubric:
        return options.rubric
    try:
        return Path(options.rubric_file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}.options.rubric_file {options.rubric_file!r} cannot be read: {error}") from None


def _key(where: str, options: JudgeOptions) -> str:
    if not options.key_env:
        return ""
    key = os.environ.get(options.key_env, "").strip()
    if not key:
        raise UserError(f"{where}.options.key_env: the environment variable {options.key_env!r} is not set or empty")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{where}.options.key_env: {options.key_env!r} holds something that is no key: mend it")
    return key


def _end(loop: asyncio.AbstractEventLoop, thread: Thread, asker: _Asker) -> None:
    asyncio.run_coroutine_threadsafe(asker.close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
