"""Pre-trained networks of the ``transformers`` package: found, checked, loaded, and rebuilt.

A network is named by a local folder or by an identifier on the Hugging Face hub. An identifier is
looked up in the local cache only; with ``SERKIT_DOWNLOAD=1`` in the environment it may be fetched,
at a revision that cannot change. Only safetensors weights are read and no code that comes with a
network is run.

What a checkpoint needs to build a network again, without its folder, is its *architecture*: the
content of its ``config.json``, completed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from serkit.audio import file_sha256
from serkit.types import InputError, MissingExtraError

__all__ = [
    "build_network",
    "build_whisper_encoder",
    "complete_architecture",
    "find_folder",
    "hidden_size",
    "load_network",
    "load_whisper_encoder",
    "parameter_groups",
    "quiet",
    "read_json",
    "weights_sha256",
]

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"

# Say where a network was saved and by what, or serve heads that are not used here.
_NOT_ARCHITECTURE = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "id2label",
    "label2id",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
}


def find_folder(model: str, revision: str | None, *, where: str) -> Path:
    """Find the folder of a pre-trained network.

    Parameters
    ----------
    model
        A folder, or an identifier such as ``facebook/wav2vec2-base``.
    revision
        Branch, tag or commit, for identifiers; ``None``: ``main``.
    where
        How messages call the settings that ``model`` is one of.

    Raises
    ------
    InputError
        If it is neither a folder nor in the cache and may not or cannot be fetched.
    MissingExtraError
        If transformers is not installed.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    cached = _cached_folder(model, revision)
    if cached is not None:
        return cached
    from huggingface_hub import constants, snapshot_download

    if os.environ.get("SERKIT_DOWNLOAD") != "1":
        raise InputError(
            f"{where}.model '{model}' is no folder, and revision {revision or 'main'} of it is not "
            f"in the cache {constants.HF_HUB_CACHE} (set by HF_HOME): fetch it where there is a "
            f"network with 'hf download {model} --revision {revision or 'COMMIT'} --local-dir DIR' "
            f"and set {where}.model to DIR, or allow the download with SERKIT_DOWNLOAD=1"
        )
    if not re.fullmatch("[0-9a-f]{40}", revision or ""):
        raise InputError(
            f"{where}.revision is {revision!r}, expected a commit (40 hexadecimal digits) where "
            f"SERKIT_DOWNLOAD=1 allows to fetch '{model}': what a branch holds can change"
        )
    wanted = ["*.json", "*.txt", "*.safetensors"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{where}.model '{model}' could not be fetched ({_one_line(error)})"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        If the file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{path}: no such file: not the folder of a pre-trained model") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def complete_architecture(
    given: Mapping[str, Any], *, families: tuple[str, ...], where: str
) -> dict[str, Any]:
    """Check the content of a ``config.json`` and add what it leaves to defaults.

    Parameters
    ----------
    families
        The values of ``model_type`` that are understood.
    where
        How messages call what is given.

    Returns
    -------
    architecture : plain values, JSON

    Raises
    ------
    InputError
        If the network is of another family, or values are of the wrong kind.
    """
    if given.get("model_type") not in families:
        raise InputError(
            f"{where}: model_type is {given.get('model_type')!r}, expected one of "
            f"{', '.join(families)}"
        )
    given = {key: value for key, value in given.items() if key not in _NOT_ARCHITECTURE}
    complete = json.loads(_config(given, where=where).to_json_string(use_diff=False))
    return {key: value for key, value in complete.items() if key not in _NOT_ARCHITECTURE}


def build_network(architecture: Mapping[str, Any], *, where: str, pooler: bool = True) -> nn.Module:
    """Build a network with random weights.

    Parameters
    ----------
    where
        How messages call the architecture.
    pooler
        ``False``: leave out the dense layer that text networks have behind the first token.

    Raises
    ------
    InputError
        If the architecture is not one.
    """
    from transformers import AutoModel

    config = _config(architecture, where=where)
    options = {} if pooler else {"add_pooling_layer": False}
    try:
        with quiet():
            network: nn.Module = AutoModel.from_config(config, dtype=torch.float32, **options)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise InputError(f"{where}: not a working architecture ({_one_line(error)})") from None
    return network


def load_network(
    folder: Path, architecture: Mapping[str, Any], *, pooler: bool = True
) -> nn.Module:
    """Build a network with the weights in a folder.

    Parameters
    ----------
    architecture
        As :func:`complete_architecture` gives it, or with fewer layers.

    Raises
    ------
    InputError
        If there are no safetensors weights, or they are damaged or do not fit.
    """
    from transformers import AutoModel

    config = _config(architecture, where=str(folder / "config.json"))
    options = {} if pooler else {"add_pooling_layer": False}
    files = _weight_files(folder)
    try:
        with quiet():
            network, info = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                use_safetensors=True,
                **options,
            )
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        raise InputError(
            f"{files[0]}: weights are damaged or do not fit config.json ({_one_line(error)})"
        ) from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"{files[0]}: {len(missing)} of {len(network.state_dict())} tensors that config.json "
            f"asks for are missing, the first is {missing[0]}: fetch the folder again"
        )
    loaded: nn.Module = network
    return loaded


def build_whisper_encoder(architecture: Mapping[str, Any], *, where: str) -> nn.Module:
    """Build the encoder half of Whisper with random weights.

    Parameters
    ----------
    where
        How messages call the architecture.

    Raises
    ------
    InputError
        If the architecture is not one.
    """
    config = _config(architecture, where=where)
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    try:
        with quiet():
            encoder: nn.Module = WhisperEncoder(config)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise InputError(f"{where}: not a working architecture ({_one_line(error)})") from None
    return encoder


def load_whisper_encoder(folder: Path, architecture: Mapping[str, Any]) -> nn.Module:
    """Build the encoder half of Whisper with the weights in a folder of any Whisper.

    Parameters
    ----------
    architecture
        As :func:`complete_architecture` gives it, or with fewer layers or positions.

    Raises
    ------
    InputError
        If there are no safetensors weights, or they are damaged or do not fit.
    """
    encoder = build_whisper_encoder(architecture, where=str(folder / "config.json"))
    files = _weight_files(folder)
    wanted = encoder.state_dict()
    found: dict[str, torch.Tensor] = {}
    try:
        for file in files:
            with safe_open(file, framework="pt") as stored:
                for key in stored.keys():
                    name = re.sub(r"^(model\.)?encoder\.", "", key)
                    if name != key and name in wanted:
                        found[name] = stored.get_tensor(key).float()
        if "embed_positions.weight" in found:
            n_positions = len(wanted["embed_positions.weight"])
            found["embed_positions.weight"] = found["embed_positions.weight"][:n_positions]
        missing = sorted(wanted.keys() - found.keys())
        if not missing:
            encoder.load_state_dict(found, assign=True)  # mapped from the file, not copied
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{files[0]}: weights are damaged or do not fit config.json ({_one_line(error)})"
        ) from None
    if missing:
        raise InputError(
            f"{files[0]}: {len(missing)} of {len(wanted)} tensors that config.json asks for are "
            f"missing, the first is {missing[0]}: fetch the folder again"
        )
    return encoder


def weights_sha256(folder: Path, *, expected: str | None, where: str) -> str:
    """Identify the weights in a folder: the hash of the file, or of the hashes of its parts.

    Parameters
    ----------
    expected
        What they have to be; ``None``: anything.
    where
        How messages call the settings that ``weights_sha256`` is one of.

    Raises
    ------
    InputError
        If there are no safetensors weights, or others than expected.
    """
    hashes = [file_sha256(path) for path in _weight_files(folder)]
    got = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    if expected not in (None, got):
        raise InputError(
            f"{where}.weights_sha256 is {expected}, but the weights in {folder} have {got}: "
            "another version of the model"
        )
    return got


def parameter_groups(
    names: Iterable[str], *, n_layers: int, decay: float, top: tuple[str, ...] = ()
) -> list[tuple[list[str], float]]:
    """Group parameters by layer, for learning rates that fall from the last to the first.

    Parameters
    ----------
    names
        Names of parameters; those of layer i contain ``encoder.layers.i.`` or ``encoder.layer.i.``.
    n_layers
        Number of transformer layers.
    decay
        Ratio of a layer's learning rate to that of the layer above, in (0, 1].
    top
        Beginnings of names that belong above the last layer. What is neither there nor in a layer
        belongs below the first.

    Returns
    -------
    groups : lists of names, each with its factor of the base learning rate, the highest first

    >>> names = ["encoder.layers.1.w", "encoder.layers.0.w", "cnn.w"]
    >>> parameter_groups(names, n_layers=2, decay=0.5)
    [(['encoder.layers.1.w'], 1.0), (['encoder.layers.0.w'], 0.5), (['cnn.w'], 0.25)]
    """
    groups: dict[int, list[str]] = {}
    for name in names:
        layer = re.search(r"\bencoder\.layers?\.(\d+)\.", name)
        if name.startswith(top):
            depth = 0
        elif layer is None:
            depth = n_layers
        else:
            depth = n_layers - 1 - int(layer[1])
        groups.setdefault(depth, []).append(name)
    return [(groups[depth], decay**depth) for depth in sorted(groups)]


def hidden_size(architecture: Mapping[str, Any] | None, *, model: str, where: str) -> int:
    """Give the width of a network's frames or tokens.

    Raises
    ------
    InputError
        If the architecture is not filled in.
    """
    if architecture is None:
        raise InputError(
            f"{where}.architecture of '{model}' is not known yet: use the config of the built "
            "encoder"
        )
    # Whisper's own name for it is another.
    return int(architecture.get("hidden_size") or architecture["d_model"])


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError(
            "transformers", extra="encoders", needed_for="a pre-trained encoder"
        ) from None


def _cached_folder(model: str, revision: str | None) -> Path | None:
    """Look an identifier up in the local cache."""
    _require_transformers()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # not there, or no identifier at all
        return None


def _config(architecture: Mapping[str, Any], *, where: str) -> Any:
    """Build the configuration object that transformers wants."""
    _require_transformers()
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.for_model(**architecture)
    except Exception as error:  # its checks raise classes of their own, not all of them public
        raise InputError(f"{where}: not a valid architecture ({_one_line(error)})") from None


def _weight_files(folder: Path) -> list[Path]:
    """Give the files that hold the weights, in a fixed order."""
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if (folder / _INDEX).is_file():
        parts = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(parts, dict) or not parts:
            raise InputError(f"{folder / _INDEX}: damaged, it names no parts")
        files = [folder / name for name in sorted(set(parts.values()))]
        for file in files:
            if not file.is_file():
                raise InputError(f"{file}: missing, though {_INDEX} names it: fetch it again")
        return files
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if pickled:
        raise InputError(
            f"{pickled[0]}: pickled weights can run code and are not read: fetch a revision with "
            f"{_WEIGHTS}, or, if you trust them, convert them once with AutoModel.from_pretrained "
            "and save_pretrained of transformers"
        )
    raise InputError(f"{folder}: holds no {_WEIGHTS}: not the folder of a pre-trained model")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars and tables of transformers off the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
