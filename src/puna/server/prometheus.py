"""Figures for Prometheus. Imported only where they are wanted."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from puna.server.metrics import Load, Metrics

AnyMetric = TypeVar("AnyMetric", Counter, Gauge, Histogram)

_MOST_MODELS = 100
_OTHER = "other"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_STEPS = (*_GAPS, 5, 10, 30)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128)


class PrometheusMetrics(Metrics):
    """Keeps the figures. Labels are bounded: routes, statuses, kinds of errors, and so many models."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._models: set[str] = set()
        self._kept: dict[tuple[Any, str], Any] = {}
        self._requests = Counter(
            "puna_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._durations = Histogram(
            "puna_request_seconds",
            "Time to the end of an answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._running = Gauge("puna_requests_running", "Requests that are being answered.", registry=registry)
        self._errors = Counter("puna_errors", "Requests that failed, by kind.", ["kind"], registry=registry)
        self._tokens = Counter("puna_tokens", "Tokens, by kind.", ["model", "kind"], registry=registry)
        self._first = Histogram(
            "puna_first_token_seconds",
            "Time to the first token.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._gaps = Histogram(
            "puna_token_gap_seconds", "Time between two tokens.", ["model"], buckets=_GAPS, registry=registry
        )
        self._steps = Histogram(
            "puna_step_seconds", "Time of a step of the engine.", ["model"], buckets=_STEPS, registry=registry
        )
        self._batch = Histogram(
            "puna_step_sequences", "Requests in a step.", ["model"], buckets=_SEQUENCES, registry=registry
        )
        self._step_tokens = Counter(
            "puna_step_tokens", "Tokens that steps evaluated.", ["model"], registry=registry
        )
        self._waiting = Gauge(
            "puna_requests_waiting", "Requests that wait for room in a model.", ["model"], registry=registry
        )
        self._cells = Gauge(
            "puna_cache_cells", "Cells of a model's cache that are taken.", ["model"], registry=registry
        )
        self._loads = Histogram(
            "puna_load_seconds", "Time to load a model.", ["model"], buckets=_SECONDS, registry=registry
        )

    def request_began(self) -> None:
        """See `Metrics`."""
        self._running.inc()

    def request_ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """See `Metrics`."""
        self._running.dec()
        self._requests.labels(route or _OTHER, method if route else _OTHER, status).inc()
        self._durations.labels(route or _OTHER).observe(seconds)

    def error(self, kind: str) -> None:
        """See `Metrics`."""
        self._errors.labels(kind).inc()

    def tokens(self, model: str, counts: Mapping[str, int]) -> None:
        """See `Metrics`."""
        label = self._label(model)
        for kind, count in counts.items():
            self._tokens.labels(label, kind).inc(count)

    def first_token(self, model: str, seconds: float) -> None:
        """See `Metrics`."""
        self._of(self._first, model).observe(seconds)

    def token_gap(self, model: str, seconds: float) -> None:
        """See `Metrics`."""
        self._of(self._gaps, model).observe(seconds)

    def step(
        self, model: str, *, sequences: int, waiting: int, tokens: int, cells: int, seconds: float
    ) -> None:
        """See `Metrics`."""
        self._of(self._waiting, model).set(waiting)
        self._of(self._cells, model).set(cells)
        if tokens:
            self._of(self._steps, model).observe(seconds)
            self._of(self._batch, model).observe(sequences)
            self._of(self._step_tokens, model).inc(tokens)

    def loaded(self, model: str, seconds: float) -> None:
        """See `Metrics`."""
        self._of(self._loads, model).observe(seconds)

    def unloaded(self, model: str) -> None:
        """See `Metrics`."""
        self._of(self._waiting, model).set(0)
        self._of(self._cells, model).set(0)

    def watch(self, load: Callable[[], Load]) -> None:
        """See `Metrics`."""
        self._registry.register(_Scrape(load, self._label))

    def exposition(self) -> tuple[bytes, str]:
        """See `Metrics`."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _of(self, metric: AnyMetric, model: str) -> AnyMetric:
        """The metric of one model. It is kept, as finding it takes longer than counting."""
        label = self._label(model)
        kept: AnyMetric | None = self._kept.get((metric, label))
        if kept is None:
            kept = self._kept[metric, label] = metric.labels(label)
        return kept

    def _label(self, model: str) -> str:
        """The model's name, while there are not too many different ones."""
        if model not in self._models and len(self._models) >= _MOST_MODELS:
            return _OTHER
        self._models.add(model)
        return model


class _Scrape(Collector):
    """What is asked for when somebody looks."""

    def __init__(self, load: Callable[[], Load], label: Callable[[str], str]) -> None:
        self._load = load
        self._label = label

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        load = self._load()
        yield GaugeMetricFamily("puna_requests_queued", "Requests that wait for a model.", value=load.queued)
        memory = GaugeMetricFamily(
            "puna_model_bytes", "Memory of a loaded model.", labels=["model", "device"]
        )
        sizes: dict[tuple[str, str], int] = {}
        for model in load.models:
            name = self._label(model.name)
            for device, size in (("gpu", model.gpu_size), ("cpu", model.size - model.gpu_size)):
                sizes[name, device] = sizes.get((name, device), 0) + size
        for labels, size in sizes.items():
            memory.add_metric(list(labels), size)
        yield memory

    def describe(self) -> Iterator[Metric]:
        """Nothing before the first scrape."""
        yield from ()
