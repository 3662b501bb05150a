"""A package in S3 on its way into the enclave, beside boto3's own download of its weights."""

from __future__ import annotations

import time
from typing import Final

import boto3

from ephemeralml.bench.case import Bench, Case
from ephemeralml.bench.timing import median, ratio_of_medians
from ephemeralml.host.s3.client import Location
from ephemeralml.host.s3.source import S3Source
from ephemeralml.inference.encoder import WEIGHTS_FILE
from ephemeralml.package import Manifest

_STAGES: Final = ("fetch_and_decrypt", "load")


class _Discard:
    """What a download is written to that keeps nothing."""

    def write(self, data: bytes) -> int:
        return len(data)


def from_s3(bench: Bench) -> Case:
    """(j) The weights from S3 by boto3 alone, by our source alone, and the whole package to a loaded model."""
    case = Case(
        "A package from S3",
        {
            "boto3": "download_fileobj of the encrypted weights with boto3's defaults, into a sink that keeps nothing",
            "source": "the host's own way to the same object: S3Source, read to its end and dropped",
            "fetch_and_decrypt": "in the enclave: every artifact of the package from S3 through the host, decrypted "
            "and its digest checked; server, host and enclave are three processes on the same two CPUs",
            "load": "in the enclave: from decrypted files to an engine that runs",
            "server": "`ephemeralml s3 run` on loopback: there is no network in it",
        },
    )
    deployment = bench.deployment
    with deployment.in_s3() as (place, endpoint):
        location = Location.parse(place)
        manifest = Manifest.verify(S3Source(place, endpoint_url=endpoint).manifest(), owner=None)
        client = boto3.session.Session().client("s3", endpoint_url=endpoint)
        key = location.artifact(manifest.package_id, WEIGHTS_FILE)
        plain: list[float] = []
        ours: list[float] = []
        stages: dict[str, list[float]] = {stage: [] for stage in _STAGES}
        for number in range(bench.effort.cold_starts):
            bench.say(f"package {number + 1} of {bench.effort.cold_starts} from S3")
            before = time.perf_counter()
            client.download_fileobj(location.bucket, key, _Discard())
            plain.append((time.perf_counter() - before) * 1000)
            source = S3Source(place, endpoint_url=endpoint)
            source.manifest()
            before = time.perf_counter()
            with source.open(WEIGHTS_FILE) as read:
                while read(1 << 20):
                    pass
            ours.append((time.perf_counter() - before) * 1000)
            with deployment.serve(place, endpoint) as served:
                for stage, samples in stages.items():
                    samples.append(served.stages[stage])
    case.add("boto3", plain)
    case.add("source", ours)
    for stage, samples in stages.items():
        case.add(stage, samples)
    case.figure("source_over_boto3", ratio_of_medians(plain, ours))
    case.figure("to_loaded_ms", sum(median(samples) for samples in stages.values()))
    case.details["weights_bytes"] = manifest.artifact(WEIGHTS_FILE).ciphertext_size
    return case
