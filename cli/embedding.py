"""Commands that give patches deep features: embed, import-features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morphomil.cli.cohorts import read_cohort
from morphomil.cli.messages import describe_cost, end_if_incomplete, note, say
from morphomil.cli.options import (
    CovariatesOption,
    DeviceOption,
    DistinctIdsOption,
    DropMissingOption,
    OutOption,
    QuietOption,
    RunArgument,
    ShardOption,
    command_group,
    parse_shard,
)
from morphomil.cli.runs import say_losses
from morphomil.types import EmbedSettings, Pooling

if TYPE_CHECKING:
    from morphomil.run.embeddings import Embeddings

commands = command_group()
BackboneOption = Annotated[
    str,
    typer.Option(
        help="efficientnet-lite0 (no download), alexnet, vgg16_bn, resnet50, densenet121, "
        "inception_v3."
    ),
]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        help="Of others, from their authors' folder in --weights: uni, uni2, virchow, virchow2, "
        "h-optimus-0, h-optimus-1, gigapath, conch. Or your own: FILE.py:FUNCTION, (n, side, side, "
        "3) uint8 to (n, F)."
    ),
]


@commands.command(
    epilog="Example: `morphomil embed run --backbone vgg16_bn --weights vgg16_bn.pth --pool max`"
)
def embed(
    path: RunArgument,
    backbone: BackboneOption = EmbedSettings.backbone,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The backbone's weights (.pth or .safetensors), where there is no network; of "
            "an encoder the folder that its authors publish."
        ),
    ] = None,
    pool: Annotated[
        Pooling,
        typer.Option(help="Of the last maps; own: flattened or averaged, as trained."),
    ] = EmbedSettings.pooling,
    size: Annotated[
        int, typer.Option(help="Patches are resized to this side: 256 or 224.")
    ] = EmbedSettings.size,
    keep_outside: Annotated[
        bool,
        typer.Option(
            "--keep-outside", help="Don't paint white what lies outside the tumor region."
        ),
    ] = False,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    shard: ShardOption = "1/1",
    quiet: QuietOption = False,
) -> None:
    """Turn every kept patch into the deep features that the image model learns from."""
    from morphomil import pipeline
    from morphomil.cli.progress import Display
    from morphomil.image_model.encoders import load_encoder_named
    from morphomil.run.directory import Run

    settings = EmbedSettings(backbone, size, pool, "keep" if keep_outside else "white")
    run = Run.open(path)
    with Display(quiet=quiet) as display:
        store, result = pipeline.embed(
            run,
            settings=settings,
            weights=weights,
            encoder=load_encoder_named(encoder, weights, device=device) if encoder else None,
            device=device,
            shard=parse_shard(shard),
            progress=display,
            on_estimate=lambda cost: say(f"It will take {describe_cost(cost)}.", quiet=quiet),
        )
    say_losses(run, "segment", quiet=quiet)
    end_if_incomplete(result.failed, result.empty)
    _say_features(store, quiet=quiet)


@commands.command(
    name="import-features",
    epilog="Example: `morphomil import-features cohort.csv --features features_uni_v1 --out run`",
)
def import_features(
    cohort: Annotated[
        Path,
        typer.Argument(
            help="Manifest as for segment; the slides' files needn't be there.", show_default=False
        ),
    ],
    out: OutOption,
    features: Annotated[
        Path,
        typer.Option(
            help="Folder of one encoder's files, named like the slides: .h5 of TRIDENT, CLAM or "
            "STAMP, .zarr of LazySlide."
        ),
    ],
    name: Annotated[str, typer.Option(help="Of these features; default: the encoder's.")] = "",
    table: Annotated[
        str, typer.Option(help="The table of features, in stores that have several.")
    ] = "",
    allow_absent: Annotated[
        bool, typer.Option("--allow-absent", help="Leave slides without a file out.")
    ] = False,
    covariates: CovariatesOption = "",
    drop_missing: DropMissingOption = False,
    distinct_ids: DistinctIdsOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take deep features that another program made, for the image model to learn from."""
    from morphomil.cli.progress import Display
    from morphomil.pipeline.foreign_features import find_features
    from morphomil.pipeline.foreign_features import import_features as store_features

    slides = read_cohort(
        cohort,
        covariates,
        run=out,
        drop_missing=drop_missing,
        distinct_ids=distinct_ids,
        images=False,
    )
    foreign = find_features(slides, features, table=table, allow_absent=allow_absent)
    if foreign.absent:
        note(f"{len(foreign.absent)} slides have no file of features and are left out")
    if foreign.strangers:
        note(f"{foreign.strangers} files in {features} belong to no slide of the manifest")
    with Display(quiet=quiet) as display:
        store, result = store_features(
            slides, foreign, out, name=name, table=table, progress=display
        )
    end_if_incomplete(result.failed, result.empty)
    _say_features(store, quiet=quiet)


def _say_features(store: Embeddings, *, quiet: bool) -> None:
    from morphomil.run.embeddings import embedded_backbones

    made = embedded_backbones(store.run).set_index("backbone")
    if store.backbone not in made.index:  # a part without slides that have nuclei
        return
    row = made.loc[store.backbone]
    say(
        f"{row['features']:,} features and {row['bytes_per_patch'] / 1024:.1f} KiB a patch.",
        quiet=quiet,
    )
    path = store.run.path
    say(
        f"Features: {path}/embeddings/{store.backbone}. "
        f"Next: morphomil train {path} --model dl-cnb",
        quiet=quiet,
    )
