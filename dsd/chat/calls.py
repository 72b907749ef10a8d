"""Make one call of a provider's client: within a total time, and with every error of the client as a failed call."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any

from dsd.chat import ChatError
from dsd.errors import UserError

BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # HTTP codes after which asking again may help
GONE = (404, 410)  # HTTP codes of a model that is not there, or no longer
UNFIT = (400, 413, 422)  # HTTP codes that say that this very question cannot be answered


def within(seconds: float, call: Callable[[], bytes]) -> bytes:
    """Return the body that `call` receives. ChatError where it takes longer in all, however steadily bytes come.

    A call that is too late is left to a thread of its own, which does not keep the process alive.
    """
    future: Future[bytes] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError as error:
        if future.done():
            raise failure(error) from error
        raise ChatError(f"no whole answer within {seconds:g} seconds", transient=True) from error
    except ChatError:
        raise
    except Exception as error:  # clients and their HTTP libraries have no common class
        raise failure(error) from error


def call_off(futures: Iterable[Future[Any]]) -> None:
    """Cancel the calls that have not begun, and wait for the others, whose answers are kept."""
    wait([future for future in futures if not future.cancel()])


def failure(error: Exception) -> ChatError:
    """Turn any exception of a client into a failed call."""
    code = next((c for n in ("status_code", "code") if isinstance(c := getattr(error, n, None), int)), None)
    reason = first_line(error)
    # Gemini calls a wrong key a bad request
    final = code in UNFIT and "api key" not in reason.lower() and "api_key" not in reason.lower()
    no_model = code in GONE and "model" in str(error).lower()
    return ChatError(reason, transient=code is None or code in BUSY, final=final, no_model=no_model)


def first_line(error: BaseException) -> str:
    """Name an exception and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def checked(model: Any, timeout: Any) -> tuple[str, float]:
    """Return the name of a model and the seconds that a call may take. UserError where they cannot work."""
    if not isinstance(model, str) or not model.strip():
        raise UserError(f"vlm.chat.model={model}: the name of a model is needed")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise UserError(f"vlm.chat.timeout={timeout}: a number of seconds above 0 is needed")
    return model, float(timeout)
