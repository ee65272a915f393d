"""Raw traces that came from elsewhere: what they are, whose they are, where they lie.

None of them is part of rapgym. They lie in the mirror that `RAPGYM_DATA` names, or, where their
public source is byte-identical, in the cache folder after `rapgym traces pull NAME`.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rapgym.errors import DataUnavailable, WrongChecksum
from rapgym.files import checked


@dataclass(frozen=True, slots=True)
class Source:
    """One raw file, as its manifest records it."""

    name: str
    path: str  # inside the mirror; gzip-packed CSV
    sha256: str  # of that packed file
    repository: str  # on GitHub
    commit: str
    origin: str  # path inside the repository
    licence: str
    attribution: str
    schema: str
    content_sha256: str | None = None  # of the public file, where that holds the same content
    kind: str = ""  # "requests": it is a trace of single requests, which scenarios may name

    @property
    def url(self) -> str | None:
        """The public file, where there is a single one of the same content."""
        if self.content_sha256 is None:
            return None
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.origin}"

    @property
    def cached(self) -> Path:
        """Where `pull` puts the public file, unpacked."""
        return checked.cache_folder() / "traces" / PurePosixPath(self.path).stem


_AZURE = {
    "repository": "Azure/AzurePublicDataset",
    "commit": "b469a113cedca53ddc3bdea71a143dc4b7d8700c",
    "licence": "CC-BY-4.0",
    "attribution": "Azure LLM inference trace 2023; Patel et al., Splitwise, ISCA 2024",
    "schema": "TIMESTAMP (seven fractional digits), ContextTokens, GeneratedTokens",
    "kind": "requests",
}
_SERVEGEN = {
    "repository": "alibaba/ServeGen",
    "commit": "f891d1189eb32b3868dfc443800c4150548c282a",
    "licence": "Apache-2.0",
    "attribution": "ServeGen; Xiang et al., arXiv:2505.09999",
}

SOURCES = (
    Source(
        "azure-conv",
        "traces/azure_llm_2023_conv.csv.gz",
        "9d3518f77e4387c32c76b206d8006fe5a2bde0dc41d6038dbd0a1c60c7e86fa2",
        origin="data/AzureLLMInferenceTrace_conv.csv",
        content_sha256="2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        **_AZURE,
    ),
    Source(
        "azure-code",
        "traces/azure_llm_2023_code.csv.gz",
        "a693e93b69f7c2ad7039d2ea1e109b5cf83c5a6c699e1d4848030e8fae223389",
        origin="data/AzureLLMInferenceTrace_code.csv",
        content_sha256="54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
        **_AZURE,
    ),
    Source(
        "mooncake-conversation",
        "traces/mooncake_conversation.csv.gz",
        "7bf4b3574d53d049328e7b3ffecfa2bef2079ef55ac013275d96d1ab35e25ace",
        repository="kvcache-ai/Mooncake",
        commit="3b5a594133958449a1feaf1c9e0fc1b553e34a28",
        origin="FAST25-release/traces/conversation_trace.jsonl",
        licence="Apache-2.0",
        attribution="Qin et al., Mooncake, FAST 2025",
        schema="timestamp_ms (3 s grid), input_length, output_length (tokens), hash_ids",
        kind="requests",
    ),
    Source(
        "servegen-clients",
        "traces/servegen_clients_600s.csv.gz",
        "0f30857f130db044489848f43214106d0a6ce1cd43aabf79ad3d310364378c59",
        origin="data/*/*/chunk-*-trace.csv",
        schema="workload, client, t_s (600 s windows with traffic), rate_rps, iat_cv, pattern, "
        "arg1, arg2",
        **_SERVEGEN,
    ),
    Source(
        "servegen-lengths",
        "traces/servegen_lengths.csv.gz",
        "ce129f40dab6ba77943781e2097aa426c36154be1ccaa68e059823ff5eb44d18",
        origin="data/{language,reason}/*/chunk-*-dataset.json",
        schema="workload, client, t_s (6 h windows), mean, p50, p90, p99 of input and output "
        "tokens; 55 clients are missing",
        **_SERVEGEN,
    ),
    Source(
        "vllm-kvcache",
        "memory/vllm_kvcache_burstgpt_replay.csv.gz",
        "482dce2f66548217de6b5b44c9b1b1b00bb8f76bc2f954ad1fb187a1fa433d74",
        repository="liao4s/BurstGPT_test",
        commit="60886990e3ae50881a67be29e77d512f634e133d",
        origin="example/logs",
        licence="MIT",
        attribution="liao4s/BurstGPT_test: laboratory replay of BurstGPT prompts on vLLM",
        schema="run_scale (speed-up), t_s (about 0.5 s apart), kvcache_usage_pct of the KV pool, "
        "queue lengths, token rates, NVML readings",
    ),
)

# What was checked stays checked while its size and time of change do: (path, mtime, size) -> sha256.
_verified: dict[tuple[Path, int, int], str] = {}


def source_of(name: str) -> Source:
    """The record of one raw file.

    Raises:
        DataUnavailable: none goes by this name; the message lists those there are.
    """
    for source in SOURCES:
        if source.name == name:
            return source
    known = ", ".join(source.name for source in SOURCES)
    raise DataUnavailable(f"no raw trace is called {name!r}; there are {known}")


def path_of(name: str) -> Path:
    """The file on this machine, its content checked: from the mirror, else what was pulled.

    Raises:
        DataUnavailable: it is in neither place, or there is no such name.
        WrongChecksum: it is not the file that it should be.
    """
    source = source_of(name)
    mirror = checked.mirror_folder()
    if mirror is not None and (mirror / source.path).is_file():
        return _checked(mirror / source.path, source.sha256, "restore it in the RAPGYM_DATA mirror")
    if source.content_sha256 is None:
        raise DataUnavailable(
            f"{name} is not on this machine and has no single public source: only a mirror holds "
            f"it; set RAPGYM_DATA to a folder with {source.path}"
        )
    remedy = f"run: rapgym traces pull {name}"
    if not source.cached.is_file():
        raise DataUnavailable(
            f"{name} is not on this machine; {remedy}; or set RAPGYM_DATA to a folder with "
            f"{source.path}"
        )
    return _checked(source.cached, source.content_sha256, remedy)


def pull(name: str) -> Path:
    """Download the public file into the cache folder, once; its content is checked.

    Raises:
        DataUnavailable: it has no public source, or that cannot be reached.
        WrongChecksum: the source has another content now.
    """
    source = source_of(name)
    if source.url is None or source.content_sha256 is None:
        raise DataUnavailable(
            f"{name} has no single public source to pull from ({source.repository} holds its "
            f"parts): set RAPGYM_DATA to a folder with {source.path}"
        )
    import pooch

    try:
        pooch.retrieve(
            source.url,
            known_hash=f"sha256:{source.content_sha256}",
            fname=source.cached.name,
            path=source.cached.parent,
        )
    except OSError as error:  # requests' errors are among them
        raise DataUnavailable(
            f"{name} could not be pulled from {source.url} ({type(error).__name__}); check the "
            f"connection and try again, or set RAPGYM_DATA to a folder with {source.path}"
        ) from error
    except ValueError as error:
        raise WrongChecksum(f"{name}: {source.url} has another content now ({error})") from error
    return _checked(source.cached, source.content_sha256, f"run: rapgym traces pull {name}")


def _checked(path: Path, sha256: str, remedy: str) -> Path:
    state = path.stat()
    key = (path, state.st_mtime_ns, state.st_size)
    if _verified.get(key) != sha256:
        checked.checked(path, sha256, remedy)
        _verified[key] = sha256
    return path
