"""What Prometheus reads: the queue, latency by stage, cache, batches, failures, workers."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from .contract import Update
from .engine import rss
from .jobs import Jobs

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """Stages are observed as jobs end; everything else is gathered when it is read."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.registry = CollectorRegistry()
        self.registry.register(self)  # type: ignore[arg-type]
        self.ended = Counter("unlearn_jobs_ended", "Jobs that ended, by outcome", ["outcome"], registry=self.registry)
        self.stage = Histogram(
            "unlearn_stage_seconds", "Time of a job by stage", ["stage"], buckets=SECONDS, registry=self.registry
        )
        jobs.on_end = self.observe

    def observe(self, update: Update) -> None:
        """Count a job that ended."""
        self.ended.labels("completed" if update.outcome == "completed" else update.code).inc()
        for stage, seconds in update.seconds.items():
            self.stage.labels(stage).observe(seconds)

    def render(self) -> bytes:
        """The text that a scrape gets."""
        return generate_latest(self.registry)

    def describe(self) -> tuple[()]:
        return ()  # so that registering gathers nothing yet

    def collect(self) -> Iterator[Metric]:
        figures, counts = self.jobs.engine.figures(), self.jobs.store.count()
        kept = GaugeMetricFamily("unlearn_jobs", "Jobs in the store by status", labels=["status"])
        for status, count in counts.items():
            kept.add_metric([status], count)
        yield kept
        ready = float(self.jobs.health().ready)
        yield GaugeMetricFamily("unlearn_ready", "Whether a worker has answered lately", ready)
        yield GaugeMetricFamily("unlearn_workers", "Workers that have loaded the model", figures["ready"])
        yield CounterMetricFamily(
            "unlearn_worker_restarts", "Workers that ended and were replaced", figures["restarts"]
        )
        batches = CounterMetricFamily("unlearn_batches", "Batches drawn, by their size", labels=["size"])
        for size, count in sorted(figures["batches"].items()):
            batches.add_metric([str(size)], count)
        yield batches
        cache = CounterMetricFamily("unlearn_embedding_cache", "Texts looked up in the cache", labels=["result"])
        cache.add_metric(["hit"], figures["hits"])
        cache.add_metric(["miss"], figures["misses"])
        yield cache
        memory = GaugeMetricFamily("unlearn_resident_bytes", "Memory by process", labels=["process"])
        memory.add_metric(["api"], rss())
        for number, size in enumerate(figures["rss"].values()):
            memory.add_metric([f"worker-{number}"], size)
        yield memory
