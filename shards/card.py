"""What tells a stranger about a dataset: the Hugging Face card and the Croissant description."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MEMBERS = {
    "image.png": ("image/png", "the portrait, RGB"),
    "image.jpg": ("image/jpeg", "the portrait, RGB"),
    "alpha.png": ("image/png", "alpha, 8-bit gray"),
    "fg.png": ("image/png", "foreground, RGB, straight (not premultiplied), colour extended under alpha = 0"),
    "trimap.png": ("image/png", "trimap: 0 background, 128 unknown, 255 foreground"),
    "json": ("application/json", "key, seed, steps, expected_mad (MAD x1000; -1.0 if uncalibrated), losses and scores"),
    "alpha16.png": ("image/png", "alpha, 16-bit gray"),
    "ws.npy": ("application/octet-stream", "W+ latents, float16 [L, w_dim]"),
    "noise.npz": ("application/zip", "noise maps, float32, one array a layer"),
}
SIZES = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
# The context of Croissant 1.0, as its specification gives it; readers warn of any other.
_TERMS = ["citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet"]
_TERMS += ["format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"]
_TERMS += ["references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"]
CROISSANT_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _TERMS},
}


def dataset_licence(networks: Sequence[Mapping[str, Any]]) -> str:
    """The licence all networks share, or "other": a dataset is no freer than what made it."""
    licences = {str(card.get("licence", "")) for card in networks}
    return licences.pop() if len(licences) == 1 and "" not in licences else "other"


def _members(dataset: Mapping[str, Any]) -> list[str]:
    return list(dataset["shards"][0]["members"]) if dataset["shards"] else []


def dataset_card(dataset: Mapping[str, Any]) -> str:
    """README.md of a dataset: YAML for the hub, then what it is, how it was made and what limits it."""
    members = [f"| `KEY.{name}` | {MEMBERS[name][1]} |" for name in _members(dataset)]
    settings = [f"| `{_cell(name)}` | `{_cell(json.dumps(value))}` |" for name, value in dataset["config"].items()]
    networks = [
        f"| {_cell(card.get('name', ''))} | {_cell(card.get('licence', ''))} | {_cell(card.get('source', ''))} |"
        for card in dataset["networks"]
    ]
    num_candidates = sum(shard["candidates"] for shard in dataset["shards"])
    lines = [
        *_front_matter(dataset),
        "# Portraits with alpha mattes, made by mattesmith",
        "",
        f"{dataset['count']} portraits in {len(dataset['shards'])} WebDataset shards, "
        f"kept from {num_candidates} candidates.",
        "No person in it exists: a generator drew every portrait, and networks made every matte.",
        "Nobody has labelled or corrected anything by hand.",
        "",
        "The matte of an image as it stands is a network's estimate. But a composite",
        "`alpha * fg + (1 - alpha) * background` over a background of your own has `alpha` as its exact matte by",
        "construction, so train on such composites; best mixed in linear light, in which `fg` was estimated.",
        "",
        *("| member | content |", "|---|---|", *members, ""),
        *("Load it:", "", "```python", "import webdataset"),
        f'dataset = webdataset.WebDataset("{_brace(dataset)}").decode("pil")',
        *("```", "", "## Networks", "", "| name | licence | source |", "|---|---|---|", *networks, ""),
        *("## Settings", "", "| setting | value |", "|---|---|", *settings, ""),
        f"Configuration `{dataset['config_hash']}`, mattesmith {dataset['version']}.",
        "",
    ]
    return "\n".join(lines)


def _front_matter(dataset: Mapping[str, Any]) -> list[str]:
    licence = dataset["licence"].lower()
    if not re.fullmatch(r"[a-z0-9.+-]+", licence):
        licence = "other"
    named = ["license_name: see-the-networks-below"] if licence == "other" else []
    size = next((name for bound, name in SIZES if dataset["count"] < bound), "n>10M")
    # Only the tars are samples: without this the hub would also read the parquet files of all candidates.
    configs = ["configs:", "- config_name: default", "  data_files:", "  - split: train", '    path: "*.tar"']
    return [
        *("---", "pretty_name: mattesmith portraits", f"license: {licence}", *named),
        *("annotations_creators:", "- machine-generated", "source_datasets:", "- original"),
        *("task_categories:", "- image-segmentation", "size_categories:", f"- {size}"),
        *("tags:", "- machine-generated", "- synthetic", "- image-matting", "- portrait", "- webdataset"),
        *(configs if dataset["shards"] else []),
        *("---", ""),
    ]


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table: neither a column nor a line nor a tag may come out of it."""
    flat = " ".join(str(text).split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").replace("`", "&#96;")


def _brace(dataset: Mapping[str, Any]) -> str:
    last = len(dataset["shards"]) - 1
    return "00000.tar" if last <= 0 else f"{{00000..{last:05d}}}.tar"


def croissant(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Croissant 1.0 (JSON-LD): every shard with its sum, every member as a field."""
    members = _members(dataset)
    tars = [_file(shard["tar"], "application/x-tar") for shard in dataset["shards"]]
    tables = [_file(shard["parquet"], "application/x-parquet") for shard in dataset["shards"]]
    sets = [_file_set(name, [tar["@id"] for tar in tars]) for name in members]
    licence = dataset["licence"]
    spdx = licence != "other" and re.fullmatch(r"[A-Za-z0-9.+-]+", licence)
    return {
        "@context": CROISSANT_CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "mattesmith",
        "description": f"{dataset['count']} machine-generated portraits with alpha mattes, foregrounds and trimaps.",
        "license": f"https://spdx.org/licenses/{licence}.html" if spdx else licence,
        "version": "1.0.0",
        "keywords": ["machine-generated", "synthetic", "image matting", "portrait"],
        "distribution": [*tars, *tables, *sets],
        "recordSet": [_record_set(name) for name in members],
    }


def _file(file: Mapping[str, Any], encoding: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file["name"],
        "name": file["name"],
        "contentUrl": file["name"],
        "contentSize": f"{file['bytes']} B",
        "encodingFormat": encoding,
        "sha256": file["sha256"],
    }


def _file_set(member: str, tars: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{member}-files",
        "name": f"{member}-files",
        "description": MEMBERS[member][1],
        "containedIn": [{"@id": tar} for tar in tars],
        "encodingFormat": MEMBERS[member][0],
        "includes": f"*.{member}",
    }


def _record_set(member: str) -> dict[str, Any]:
    """One record a file: its key (the name up to the first dot) and its content; equal keys are one portrait."""
    files = {"fileSet": {"@id": f"{member}-files"}}
    key = {
        "@type": "cr:Field",
        "@id": f"{member}/key",
        "name": f"{member}/key",
        "dataType": "sc:Text",
        "source": {**files, "extract": {"fileProperty": "filename"}, "transform": {"regex": r"^([0-9a-z_]+)\."}},
    }
    content = {
        "@type": "cr:Field",
        "@id": f"{member}/content",
        "name": f"{member}/content",
        "description": MEMBERS[member][1],
        "dataType": "sc:ImageObject" if MEMBERS[member][0].startswith("image/") else "sc:Text",
        "source": {**files, "extract": {"fileProperty": "content"}},
    }
    return {"@type": "cr:RecordSet", "@id": member, "name": member, "field": [key, content]}
