"""A journal's snapshot in the text format of Prometheus, and in OpenMetrics for those who ask for it.

Labels come from closed sets: routes from the table, aliases from the configuration, failures by class; a client's own
text is never one. The classes of upstream failures are there from the start, so that a failure that has not happened
yet is a line at zero and its first time is seen as a rise.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

from claude_proxy import __version__
from claude_proxy.shell.observe.journal import BUCKETS, Activity, Histogram, Times

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_Labels: TypeAlias = Mapping[str, str]
_Sample: TypeAlias = tuple[str, _Labels, float]  # suffix of the name, labels, value


class _Family(NamedTuple):
    """One metric with all its samples."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    samples: tuple[_Sample, ...] = ()


def media_type(accept: str) -> str:
    """The format to answer with: OpenMetrics where it is asked for, as Prometheus does."""
    return OPEN_METRICS if "application/openmetrics-text" in accept else TEXT


def render(snapshot: Activity, form: str = TEXT) -> bytes:
    """The metrics in one of the two forms."""
    is_open = form == OPEN_METRICS
    lines = [line for family in _families(snapshot) for line in _lines(family, is_open=is_open)]
    return "\n".join([*lines, *(["# EOF"] if is_open else []), ""]).encode()


def _lines(family: _Family, *, is_open: bool) -> Iterator[str]:
    # OpenMetrics names a counter without the `_total` of its samples.
    name = f"claude_proxy_{family.name}"
    described = name if is_open or family.type != "counter" else f"{name}_total"
    yield f"# HELP {described} {family.help}"
    yield f"# TYPE {described} {family.type}"
    for suffix, labels, value in family.samples:
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        yield f"{name}{suffix}{{{inside}}} {_number(value)}" if inside else f"{name}{suffix} {_number(value)}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6f}".rstrip("0").rstrip(".")


# --- the families -----------------------------------------------------------------------------------------------------

_COUNTERS = (  # name, attribute of `Totals`, label, explanation
    ("input_tokens", "input_tokens", "alias", "Tokens read, as reported to clients."),
    ("output_tokens", "output_tokens", "alias", "Tokens written, as reported to clients."),
    ("tool_calls", "calls", "alias", "Tool calls read from replies."),
    ("repairs", "repairs", "alias", "Replies that could not be used and were asked for once more."),
    ("continuations", "continuations", "alias", "Replies that were cut off and continued."),
    ("mended_edits", "mended_edits", "alias", "Edits in which what the model changed by mistake was mended."),
    ("upstream_failures", "upstream_failures", "class", "Failures of REDCap or of a model."),
    ("client_requests", "client_requests", "client", "Requests for messages, by client of a shared proxy."),
    ("client_tokens", "client_tokens", "client", "Tokens in and out, by client of a shared proxy."),
)


def _families(snapshot: Activity) -> Iterator[_Family]:
    totals = snapshot.totals
    build = {"version": __version__, "python": sys.version.partition(" ")[0]}
    yield _gauge("build_info", "What runs; always 1.", 1, build)
    yield _gauge("start_time_seconds", "When the proxy started, in Unix seconds.", snapshot.started)
    yield _gauge("requests_in_flight", "Requests for messages that are being answered.", len(snapshot.running))
    yield _gauge("requests_waiting", "Those of them that wait for a turn to call REDCap.", snapshot.waiting)
    yield _Family(
        "requests",
        "counter",
        "Requests answered; status 499 is a client that went away.",
        tuple(
            ("_total", {"route": route, "status": str(status), "alias": alias}, count)
            for (route, status, alias), count in totals.requests.items()
        ),
    )
    yield _histogram("request_duration_seconds", "Seconds until a response was complete.", totals.durations)
    yield _histogram("first_byte_seconds", "Seconds until a response began.", totals.first_bytes)
    for name, attribute, label, explanation in _COUNTERS:
        samples = tuple(("_total", {label: key}, count) for key, count in getattr(totals, attribute).items())
        yield _Family(name, "counter", explanation, samples)
    explanation = "Requests whose client went away."
    yield _Family("client_disconnects", "counter", explanation, (("_total", {}, totals.disconnects),))
    explanation = "Lines of the log that nobody read in time, or that could not be written."
    yield _Family("log_lines_lost", "counter", explanation, (("_total", {}, snapshot.lost_lines),))


def _gauge(name: str, explanation: str, value: float, labels: _Labels | None = None) -> _Family:
    return _Family(name, "gauge", explanation, (("", labels or {}, value),))


def _histogram(name: str, explanation: str, histograms: Mapping[Times, Histogram]) -> _Family:
    samples = (sample for times, histogram in histograms.items() for sample in _buckets(times, histogram))
    return _Family(name, "histogram", explanation, tuple(samples))


def _buckets(times: Times, histogram: Histogram) -> Iterable[_Sample]:
    labels = {"route": times[0], "alias": times[1]}
    up_to = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
        up_to += count
        yield "_bucket", {**labels, "le": bound}, up_to
    yield "_sum", labels, float(histogram.total)
    yield "_count", labels, up_to
