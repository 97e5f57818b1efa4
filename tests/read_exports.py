"""What a transformers makes of exported models: python read_exports.py OUT SEEN FOLDER=IMAGE...

With the version whose folder is first in PYTHONPATH. OUT gets, by folder, prompt and image as the processor makes them,
logits in float32 for them, or for those in SEEN (an OUT of another version), and for words alone, and the names of
weights that the files lack or have too many of; where a folder cannot be read, why.
"""

import sys

import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

out, seen, *folders = sys.argv[1:]
other = torch.load(seen, weights_only=False) if seen else {}
found = {"version": transformers.__version__}
for folder, image in (one.split("=") for one in folders):
    try:
        processor = AutoProcessor.from_pretrained(folder)
        model, loading = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        content = [{"type": "image"}, {"type": "text", "text": "red cube"}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=[text], images=[[Image.open(image)]], return_tensors="pt")
        with torch.no_grad():
            logits = model(**other.get(folder, {"inputs": inputs})["inputs"]).logits
            words = model(input_ids=inputs["input_ids"][:, -3:]).logits
        found[folder] = {
            "inputs": dict(inputs),
            "logits": logits,
            "words": words,
            "missing": sorted(loading["missing_keys"]),
            "unexpected": sorted(loading["unexpected_keys"]),
        }
    except Exception as error:
        found[folder] = f"{type(error).__name__}: {error}"
torch.save(found, out)
