"""What a host counts, for Prometheus: its own work, and its enclaves' as far as they tell of it."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from ephemeralml.errors import EphemeralMLError, PackageError
from ephemeralml.exposition import ByCode, Family, Sample, histogram, render, sample
from ephemeralml.host.relay import Relay
from ephemeralml.host.reports import Reports
from ephemeralml.package import Manifest
from ephemeralml.session.report import BOUNDS_MS, STAGES, Report


def _gauge(name: str, meaning: str, *labels: str) -> Family:
    return Family(f"ephemeralml_{name}", "gauge", meaning, labels)


def _counter(name: str, meaning: str, *labels: str) -> Family:
    return Family(f"ephemeralml_{name}", "counter", meaning, labels)


READY: Final = _gauge("enclave_ready", "1 while an enclave serves, else 0.")
READY_AT: Final = _gauge("enclave_ready_timestamp_seconds", "When an enclave last became ready.")
RESTARTS: Final = _counter("enclave_restarts_total", "Enclaves that failed and were started again, by why.", "code")
KEPT: Final = _counter("enclave_kept_total", "Enclaves that were to take over and failed, by why.", "code")
MODEL: Final = _gauge(
    "model_info",
    "1, with the model that was handed to the enclave that last became ready.",
    *("model", "version", "precision", "digest"),
)
RELEASES: Final = _counter(
    "key_releases_total", "Answers of KMS for an enclave (broker), and streams to KMS (tunnel).", "way"
)
ATTESTED_AT: Final = _gauge(
    "attestation_timestamp_seconds",
    "When an enclave last proved itself: to KMS (key-release), or to a client (session, as it reports).",
    "purpose",
)
ERRORS: Final = _counter("host_errors_total", "An enclave's questions that this host could not answer, by why.", "code")
CONNECTIONS: Final = _gauge("relay_connections", "Clients' connections at the relay.")
OPENED: Final = _counter("relay_connections_total", "Clients' connections that the relay took.")
TURNED_AWAY: Final = _counter("relay_refused_total", "Clients' connections that the relay turned away, by why.", "code")
BYTES: Final = _counter("relay_bytes_total", "Sealed bytes carried.", "direction")
REPORTED_AT: Final = _gauge("report_timestamp_seconds", "When an enclave last reported.")
SESSIONS: Final = _gauge("sessions", "Sealed sessions open, as enclaves report.")
IN_WORK: Final = _gauge("requests_in_work", "Requests queued, computed or being written, as enclaves report.")
SESSIONS_OPENED: Final = _counter("sessions_total", "Sealed sessions opened, as enclaves report.")
REFUSED: Final = _counter(
    "refused_total", "Requests refused, and handshakes without evidence, as enclaves report.", "reason"
)
STAGE: Final = Family(
    "ephemeralml_stage_seconds", "histogram", "How long stages took, as enclaves report. There is no sum.", ("stage",)
)
FAMILIES: Final = (
    *(READY, READY_AT, RESTARTS, KEPT, MODEL, RELEASES, ATTESTED_AT, ERRORS),
    *(CONNECTIONS, OPENED, TURNED_AWAY, BYTES),
    *(REPORTED_AT, SESSIONS, IN_WORK, SESSIONS_OPENED, REFUSED, STAGE),
)

_BOUNDS_SECONDS: Final = tuple(bound / 1000 for bound in BOUNDS_MS)


class HostMetrics:
    """Counters since the host's start. For one event loop's use."""

    def __init__(self) -> None:
        self._ready_at: float | None = None
        self._restarts = ByCode()
        self._kept = ByCode()
        self._errors = ByCode()
        self._releases = dict.fromkeys(("broker", "tunnel"), 0)
        self._attested_at: dict[str, float] = {}
        self._model: Manifest | None = None
        self._reports = Reports()

    def ready(self, manifest: bytes | None) -> None:
        """An enclave serves, of the package whose signed `manifest` it was handed, if it asked for one."""
        self._ready_at = time.time()
        # Whoever reaches this host's services may say that it serves what nobody can.
        with suppress(PackageError):
            self._model = None if manifest is None else Manifest.verify(manifest, owner=None)

    def restarted(self, error: EphemeralMLError) -> None:
        """An enclave failed, and another is started."""
        self._restarts.add(error.code)
        self._reports.ended()

    def kept(self, error: EphemeralMLError) -> None:
        """An enclave failed to take over."""
        self._kept.add(error.code)

    def released(self, way: str) -> None:
        """KMS answered an enclave by way of the ``broker``, or can be reached by the ``tunnel``."""
        self._releases[way] += 1
        self._attested_at["key-release"] = time.time()

    def failed(self, code: str) -> None:
        """An enclave's question could not be answered."""
        self._errors.add(code)

    def reported(self, report: Report) -> None:
        """Raises `TransportError` for a report that cannot follow the one before it."""
        if self._reports.add(report):
            self._attested_at["session"] = time.time()

    def render(self, relay: Relay, *, serving: bool) -> str:
        """Everything, with what the relay keeps."""
        reports, now, carried = self._reports, self._reports.now(), relay.carried
        open_, in_work = ([], []) if now is None else ([sample(now[0])], [sample(now[1])])
        return render(
            [
                (READY, [sample(int(serving))]),
                (READY_AT, _when(self._ready_at)),
                (RESTARTS, self._restarts.samples()),
                (KEPT, self._kept.samples()),
                (MODEL, [] if self._model is None else [_model(self._model)]),
                (RELEASES, [sample(count, way=way) for way, count in self._releases.items()]),
                (ATTESTED_AT, [sample(at, purpose=purpose) for purpose, at in sorted(self._attested_at.items())]),
                (ERRORS, self._errors.samples()),
                (CONNECTIONS, [sample(relay.connections)]),
                (OPENED, [sample(relay.opened)]),
                (TURNED_AWAY, [sample(count, code=code) for code, count in sorted(relay.turned_away.items())]),
                (
                    BYTES,
                    [
                        sample(carried.to_enclave, direction="to_enclave"),
                        sample(carried.to_client, direction="to_client"),
                    ],
                ),
                (REPORTED_AT, _when(reports.heard_at)),
                (SESSIONS, open_),
                (IN_WORK, in_work),
                (SESSIONS_OPENED, [sample(reports.sessions)]),
                (REFUSED, [sample(count, reason=reason) for reason, count in reports.refused.items()]),
                (STAGE, [one for stage in STAGES for one in _histogram(reports, stage)]),
            ]
        )


def _when(at: float | None) -> list[Sample]:
    return [] if at is None else [sample(at)]


def _model(manifest: Manifest) -> Sample:
    return sample(
        1,
        model=manifest.model_id,
        version=str(manifest.version),
        precision=manifest.spec.precision,
        digest=manifest.digest.hex(),
    )


def _histogram(reports: Reports, stage: str) -> list[Sample]:
    return histogram(_BOUNDS_SECONDS, reports.stage(stage), total=None, stage=stage)
