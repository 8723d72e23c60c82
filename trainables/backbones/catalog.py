"""Backbones by name: what each is shown, how wide its features are, what a call costs.

A **backbone** turns what a decoder gives for one step (a frame, a snippet of frames, a log-mel patch) into a
feature vector: its pooled penultimate layer. Normalisation of the input happens inside, so that training,
extraction and prediction cannot differ in it. The classifier on top serves the backbone's own training only;
policies read the features, and the cost of a component leaves it out.

A component that **classifies** is a whole recognizer of single steps, a member of a pool to select from: what is
read of it, stored and paid for are its logits, one per class of the data set, classifier included.

Built from torchvision (MobileNetV2, ResNet, EfficientNet) and PyTorchVideo (X3D). The small family is what the platform
trains by itself in about a minute; its cost ratios coarse : fine : motion are of the papers' kind. The papers' own
backbones are in `paper.py`; they are built and costed alike, but their weights come from elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from paretovid.trainables.backbones.description import DESCRIPTION_FILE, BackboneDescription, BackboneOrigin
from paretovid.trainables.backbones.small import _CLIP_SPECS, _EFFICIENTNET, _MIXED_POOL, _SPECS, _X3D_POOL
from paretovid.trainables.backbones.spec import Backbone, ComponentSpec, describe_input
from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.documents import save_tensors
from paretovid.trainables.errors import DataError, UsageError, unknown_name
from paretovid.trainables.plugins.catalog import Catalog, calling_module

WEIGHTS_FILE = "backbone.safetensors"
COMPONENTS: dict[str, ComponentSpec] = {
    spec.name: spec for spec in (*_SPECS, *_CLIP_SPECS, *_X3D_POOL, _EFFICIENTNET)
}
FAMILIES: dict[str, dict[str, str]] = {
    **{
        family_name: {spec.source: spec.name for spec in members}
        for family_name, members in (("small", _SPECS), ("x3d_pool", _X3D_POOL), ("mixed_pool", _MIXED_POOL))
    },
    "localization": {**{spec.source: spec.name for spec in _CLIP_SPECS}, "difference": "x3d_w200@8x40"},
}
"""Family to source to component, of those that the platform trains by itself."""
_PAPERS = "paretovid.trainables.backbones.paper"
_PAPER_FAMILIES = (
    "paper",
    "paper_audio_memory",
    "paper_dpn",
    "paper_hcms",
    "paper_localization",
    "paper_mixed_pool",
    "paper_slowfast",
    "paper_video_epitoma",
    "paper_video_epitoma_resnet",
    "paper_video_epitoma_shufflenet",
    "paper_x3d_pool",
)
Family = Mapping[str, ComponentSpec | str]
"""Source to its component, or to the name of one that is there already."""


def _checked(name: str, found: object, where: str) -> Mapping[str, str]:
    """Source to component of a family, whose new components are known from then on.

    Raises `UsageError` that says which rule of the contract it breaks, or which component is there twice.
    """
    rule = None
    if not isinstance(found, Mapping) or not found:
        rule = f"it is {found!r}, and must map each source to a ComponentSpec, or to the name of a component"
    else:
        for source, member in found.items():
            if not (isinstance(member, ComponentSpec) or member in _known):
                rule = f"{source!r} must name a ComponentSpec or a known component, not {member!r}"
    if rule is not None:
        raise UsageError(
            f"{where} breaks the contract of a family of backbones: {rule}",
            "trainables/backbones/spec.py states what a component is.",
        )
    assert isinstance(found, Mapping)
    add_components([member for member in found.values() if isinstance(member, ComponentSpec)], where)
    return {
        str(source): member.name if isinstance(member, ComponentSpec) else str(member)
        for source, member in found.items()
    }


_known: dict[str, tuple[ComponentSpec, str]] = {spec.name: (spec, __name__) for spec in COMPONENTS.values()}
"""Component to what it is and who has added it."""


def add_components(specs: Iterable[ComponentSpec], where: str) -> None:
    """Makes components known by their names.

    Arguments:
        where: who adds them, for messages.

    Raises `UsageError` for a name that another component has.
    """
    for spec in specs:
        there, by = _known.setdefault(spec.name, (spec, where))
        if there is not spec:
            raise UsageError(
                f"the component {spec.name!r} is there twice: of {by}, and of {where}",
                "Give one of them another name: features and trained weights are kept under it.",
            )


BACKBONES: Catalog[Mapping[str, str]] = Catalog("backbone family", "paretovid.backbones", _checked)
BACKBONES.own(dict.fromkeys(_PAPER_FAMILIES, _PAPERS))
for _name, _members in FAMILIES.items():
    BACKBONES.register(_name, _members, __name__)


def register_family(name: str, members: Family) -> None:
    """Makes a family of backbones known by its name; called by a module when it is imported.

    Raises `UsageError` if the family's name or that of a component is taken.
    """
    BACKBONES.register(name, members, calling_module())  # type: ignore[arg-type]  # it checks and converts


def component(name: str) -> ComponentSpec:
    """The component of that name. Raises `UnknownNameError` that lists what there is."""
    if name not in _known and name not in all_components():
        raise unknown_name("component", name, _known)
    return _known[name][0]


def component_family(name: str) -> str | None:
    """The family of a plug-in that brings the component; None for a component of this package."""
    component(name)
    # Whether its entry point or its module's import has added it: the module is the same.
    module = _known[name][1].partition(":")[0]
    if module.startswith(f"{__name__.partition('.')[0]}."):
        return None
    families = (each for each in BACKBONES.names() if name in BACKBONES.get(each).values())
    return next((each for each in families if BACKBONES.entry(each).module == module), None)


def family(name: str) -> dict[str, str]:
    """Source to component of a family. Raises `UnknownNameError` that lists what there is."""
    return dict(BACKBONES.get(name))


def all_components() -> dict[str, ComponentSpec]:
    """Every component by name: the platform's own, the papers', and those of plug-ins."""
    for each in BACKBONES.names():
        BACKBONES.get(each)
    return {name: spec for name, (spec, _) in _known.items()}


def measure_component(name: str, num_classes: int | None = None) -> ComponentCost:
    """Cost of one call: of the real module at its real input, batch 1; the classifier only of one that classifies.

    Counted on PyTorch's meta device: the same operators on the same shapes, without weights or arithmetic.
    Measured once a process.

    Arguments:
        num_classes: of the data set; may be left out for a component that does not classify.
    """
    spec = component(name)
    assert num_classes or not spec.classifies, f"{name} classifies: its cost depends on the number of classes"
    return _measured(name, num_classes if spec.classifies else None)


@functools.cache
def _measured(name: str, num_classes: int | None) -> ComponentCost:
    import torchvision  # noqa: F401  # families import it, which with torch 2.6 fails under the meta device

    spec = component(name)
    # Building draws weights; a measurement must not move a seed.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        backbone = spec.build(num_classes or 1)
        inputs = torch.zeros(1, *spec.input.shape)
    return ComponentCost(
        macs=measure_macs(backbone, inputs),
        input=describe_input(spec.input),
        published_gmacs=spec.published_gmacs,
        published_source=spec.published_source,
    )


def save_backbone(
    folder: Path,
    name: str,
    backbone: Backbone,
    origin: BackboneOrigin | None = None,
    *,
    measured: Mapping[str, float] | None = None,
    skipped: int = 0,
) -> BackboneDescription:
    """Writes weights, then the JSON that names their digest: with the JSON, the folder is whole.

    Arguments:
        name: of the component that `backbone` was built from.
        origin: what it was made from, if that is known.
        measured, skipped: as `BackboneDescription` has them.

    Returns what was written to the JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = component(name)
    with partial_file(folder / f"{WEIGHTS_FILE}.partial") as partial:
        save_tensors({key: value.cpu().contiguous() for key, value in backbone.state_dict().items()}, partial)
        described = BackboneDescription(
            component=name,
            num_outputs=int(backbone.head[-1].out_features),  # type: ignore[arg-type]  # of a linear layer
            feature_width=spec.feature_width,
            input={"kind": spec.input.kind, "size": spec.input.size, "num_frames": spec.input.num_frames},
            weights_sha256=hashlib.sha256(partial.read_bytes()).hexdigest(),
            origin=origin or BackboneOrigin(),
            measured=measured or {},
            skipped=skipped,
        )
        partial.replace(folder / WEIGHTS_FILE)
    described.write(folder)
    return described


def load_backbone(folder: Path) -> tuple[Backbone, BackboneDescription]:
    """The backbone in eval mode, and what its JSON says.

    Raises `DataError` if there is none, or if weights and JSON do not belong together.
    """
    described = BackboneDescription.read(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file() or hashlib.sha256(weights.read_bytes()).hexdigest() != described.weights_sha256:
        raise DataError(
            f"the weights in {folder} are missing or not those that its {DESCRIPTION_FILE} names",
            "The folder is damaged: delete it and run `paretovid extract`, which trains it again.",
        )
    backbone = component(described.component).build(described.num_outputs)
    backbone.load_state_dict(load_file(weights))
    return backbone.eval(), described
