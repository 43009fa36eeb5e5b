"""`kdasr serve`: live streams for sherpa-onnx's clients, for programs and for a web page."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdasr.cli.endpoint_options import endpoint_options, take_endpoints
from kdasr.cli.paths import CHECKPOINT, EXPORTED, ExperimentPath, InputPath
from kdasr.cli.recognizable import checkpoint_option, int8_option, load_recognizable, threads_option
from kdasr.cli.search_options import (
    LM_OPTIONS,
    build_recognizer,
    live_search_options,
    parse_language_model,
    parse_search,
)
from kdasr.common.errors import UserError

if TYPE_CHECKING:
    from kdasr.serving.app import Example
    from kdasr.serving.lane import ServedModel
    from kdasr.serving.server import Address
    from kdasr.serving.service import Service


@click.command(name="serve")
@click.argument("exp", type=ExperimentPath(CHECKPOINT, EXPORTED))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0: all.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=6006,
    show_default=True,
    help="0: any that is free.",
)
@click.option(
    "--max-streams",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Further ones get HTTP 503.",
)
@click.option(
    "--max-streams-per-address",
    type=click.IntRange(min=1),
    help="Of these, from one client address; further ones get HTTP 429. No limit by default.",
)
@click.option(
    "--max-starts-per-minute",
    type=click.IntRange(min=1),
    help="Streams that one client address may open within a minute. No limit by default.",
)
@click.option(
    "--compare", type=ExperimentPath(CHECKPOINT, EXPORTED), help="A second system, beside EXP on the page."
)
@checkpoint_option
@int8_option
@live_search_options
@endpoint_options("yes")
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Streams decoded at a time.",
)
@click.option(
    "--max-message-size",
    type=click.IntRange(min=1024),
    default=1 << 20,
    show_default=True,
    help="Bytes of one message.",
)
@click.option(
    "--max-queue-seconds",
    type=click.FloatRange(min=1),
    default=10.0,
    show_default=True,
    help="Audio of a stream that may wait; then no more is read from its client.",
)
@click.option(
    "--idle-seconds",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="A stream without audio for so long is finished.",
)
@click.option(
    "--allow-origin",
    multiple=True,
    help="Let pages of this origin (https://example.org, or *) open streams, besides the server's own.",
)
@click.option(
    "--token-file",
    type=InputPath("file", dir_okay=False),
    help="File with the token that clients must send; without it, the environment's KDASR_TOKEN, if any.",
)
@click.option(
    "--certificate", type=InputPath("file", dir_okay=False), help="PEM file, for TLS: https and wss alone."
)
@click.option(
    "--key", type=InputPath("file", dir_okay=False), help="PEM file with the certificate's private key."
)
@click.option(
    "--example",
    type=InputPath("audio file"),
    help="Audio file of the page's example instead of a synthesized one.",
)
@threads_option
def command(
    exp: Path,
    host: str,
    port: int,
    compare: Path | None,
    allow_origin: tuple[str, ...],
    token_file: Path | None,
    certificate: Path | None,
    key: Path | None,
    example: Path | None,
    max_streams: int,
    max_streams_per_address: int | None,
    max_starts_per_minute: int | None,
    max_batch: int,
    max_message_size: int,
    max_queue_seconds: float,
    idle_seconds: float,
    **recognition: Any,
) -> None:
    """Serve live streams of EXP: a system's folder, a checkpoint file, or a folder that `kdasr export` wrote.

    A page with a microphone is at http://HOST:PORT/; clients of sherpa-onnx's streaming server connect to
    ws://HOST:PORT. Without --host, only this machine can connect. docs/serving.md describes the protocols.
    """
    from kdasr.serving.access import Access, Addresses, Origins, read_token

    if key is not None and certificate is None:
        raise UserError("--key needs --certificate")
    origins, token = Origins(allow_origin), read_token(token_file)
    shown = _example(example)
    try:
        from kdasr.serving.app import build_app
        from kdasr.serving.server import Address, check_certificate, serve
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'kdasr[serve]'") from None
    from kdasr.serving.limits import Limits
    from kdasr.serving.service import Service

    address = Address(host, port, certificate, key)
    check_certificate(address)
    limits = Limits(
        max_streams=max_streams,
        max_batch=max_batch,
        max_message_bytes=max_message_size,
        max_queue_seconds=max_queue_seconds,
        idle_seconds=idle_seconds,
    )
    access = Access(
        replace(origins, is_local=address.is_local),
        token,
        Addresses(max_streams_per_address, max_starts_per_minute),
    )
    service = Service(_load(exp, compare, recognition), limits, access)
    serve(build_app(service, shown), service, address, lambda url: _announce(url, service, address))


def _announce(url: str, service: "Service", address: "Address") -> None:
    names = " and ".join(model.name for model in service.models)
    reach = "this machine alone" if address.is_local else "anyone who reaches this address"
    token = ", with the token," if service.access.token else ""
    click.echo(f"{names}: {url} ({reach}{token} can connect); Ctrl-C finishes the streams and stops")
    if token and not address.is_local and address.certificate is None:
        click.echo("without --certificate, token and speech go over the network unencrypted", err=True)


def _load(exp: Path, compare: Path | None, options: dict[str, Any]) -> "list[ServedModel]":
    """The models, with the options of `kdasr stream`."""
    from kdasr.export.foreign import is_exported
    from kdasr.serving.lane import ServedModel

    lm_use = parse_language_model(*(options.pop(name) for name in LM_OPTIONS))
    rules = take_endpoints(options, default=True)
    tail_seconds, biasing = options.pop("tail_seconds"), options.pop("biasing")
    checkpoint, int8, threads = options.pop("checkpoint"), options.pop("int8"), options.pop("threads")
    search = parse_search(language_model=lm_use, **options)
    models: list[ServedModel] = []
    for path in [exp] if compare is None else [exp, compare]:
        exported = is_exported(path)
        bundle = load_recognizable(
            path,
            "auto" if exported and compare else checkpoint,
            int8=int8 and (exported or compare is None),
            threads=threads,
        )
        recognizer = build_recognizer(bundle, None, tail_seconds, search, biasing, lm_use)
        if not recognizer.needs_end:
            recognizer = recognizer.with_endpoints(rules)
        taken = bundle.name in [model.name for model in models]
        models.append(ServedModel(f"{bundle.name} ({path})" if taken else bundle.name, recognizer))
    return models


def _example(path: Path | None) -> "Example":
    from kdasr.recognition.audio import check_audio, load_audio

    if path is None:
        from kdasr.serving.example import example_speech

        return example_speech
    check_audio(path)
    return lambda: load_audio(path)
