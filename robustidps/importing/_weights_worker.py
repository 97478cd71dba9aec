"""The process in which a `.pt` file is unpickled, by torch's restricted unpickler; started by `weights.py`.

This is the one exception to "nothing unpickles": weights that the guide's users have lie in `.pt` files. It is made
here, behind `weights_only=True`, in a process that is confined before torch is loaded, and nowhere else.
"""

from __future__ import annotations

import sys
from pathlib import Path

from robustidps import sandbox

REMEDY = "save the weights alone: torch.save(model.state_dict(), path), or safetensors"


def main(folder: Path) -> None:
    request = sandbox.request_of(folder)
    held = sandbox.confine(folder, request)
    import torch
    from safetensors.torch import save_file

    try:
        content = torch.load(  # noqa: TID251 - the one place, see above
            folder / "weights.pt", map_location="cpu", weights_only=True
        )
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]  # a checkpoint around it
        if not isinstance(content, dict) or not content:
            sandbox.refuse(folder, f"holds a {type(content).__name__}, not a state dict", REMEDY)
            return
        for key, value in content.items():
            if not isinstance(key, str) or not isinstance(value, torch.Tensor):
                sandbox.refuse(folder, f"its entry {str(key)[:60]!r} is no tensor", REMEDY)
                return
        tensors = {key: value.detach().contiguous().clone() for key, value in content.items()}
        save_file(tensors, str(folder / "weights.safetensors"))
        sandbox.reply(folder, {"sandbox": held})
    except MemoryError:
        sandbox.reply(folder, {"memory": True})
    except Exception as error:  # noqa: BLE001 - whatever torch raises on a stranger's file, it isn't taken
        said = " ".join(str(error).replace("\n", " ").split())
        found = said.find("Unsupported global")
        reason = said[found : found + 120] if found >= 0 else said[:200]
        sandbox.refuse(folder, f"isn't a state dict that weights_only=True reads: {reason}", REMEDY)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
