"""`widen convert`: pickle weights into safetensors, and what was made of them."""

from pathlib import Path

from tasks.model_cache import local_folder
from tasks.sources import Source, is_cached, model_id
from widen.convert import RECORD_FILE, convert
from widen.progress import progress_on


def convert_pickles(source: Path, out: Path) -> None:
    """Convert and say what was written, what was left out and what was copied."""
    if is_cached(str(source)) or (model_id(str(source)) and not source.exists()):
        source = local_folder(Source("SOURCE", str(source)), Path()).folder
    made = convert(source, out, progress_on())
    for name, kept in made.tied.items():
        print(f"tied: {name} is {kept} in this model, and was left out")
    for name, first in made.copied.items():
        print(f"copied: {name} shared the memory of {first}")
    weights = sum(file.size for file in made.files.values())
    print(f"{out}: {made.tensors} tensors, {weights / 1e9:.2f} GB; {RECORD_FILE} records the files they came from")
