"""Figures for Prometheus: what this process served, and what the database says when it is asked."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app.api.checks import Checks
from app.core.lifecycle import ScanStatus
from app.core.repository import jobs, scans

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    """The figures of one process."""

    def __init__(self, checks: Callable[[], Checks]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "triggerlens_http_requests", "HTTP requests", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "triggerlens_http_request_seconds",
            "Time until an answer was sent whole",
            ("method", "route"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.uploaded_bytes = Counter(
            "triggerlens_uploaded_bytes", "Bytes of artifacts received", ("kind",), registry=self.registry
        )
        self.registry.register(_DatabaseCollector(checks))

    def page(self) -> bytes:
        return generate_latest(self.registry)


class _DatabaseCollector(Collector):
    """Asks the database at each scrape, so every API process says the same."""

    def __init__(self, checks: Callable[[], Checks]) -> None:
        self.checks = checks

    def describe(self) -> Iterator[Metric]:
        return iter(())  # so that registering asks nothing

    def collect(self) -> Iterator[Metric]:
        try:
            figures = self._ask()
            up = 1
        except SQLAlchemyError:
            figures, up = [], 0
        yield GaugeMetricFamily("triggerlens_database_up", "Whether the database answers", up)
        yield from figures

    def _ask(self) -> list[Metric]:
        checks = self.checks()
        open_jobs = GaugeMetricFamily("triggerlens_jobs", "Open jobs", labels=("queue", "state"))
        by_status = GaugeMetricFamily("triggerlens_scans", "Scans", labels=("status",))
        with checks.service.database.reading() as session:
            for queue, state, count in jobs.counts(session):
                open_jobs.add_metric((queue, state), count)
            counts = scans.counts(session)
            for status in ScanStatus:
                by_status.add_metric((status,), counts.get(status, 0))
            oldest = jobs.oldest_ready_seconds(session)
            workers = len(checks.live_workers(session))
        return [
            open_jobs,
            by_status,
            GaugeMetricFamily("triggerlens_oldest_ready_seconds", "Age of the job that has waited for longest", oldest),
            GaugeMetricFamily("triggerlens_workers_alive", "Workers seen not long ago", workers),
        ]
