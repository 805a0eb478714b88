"""Files of a pipeline: hashes of its parts."""

import torch

from sdcxr.backbones.pipeline_files import hash_part, hash_weights


def test_an_encoder_that_never_trains_is_hashed_anew_in_another_type():
    class Frozen:
        tunable_text = ()
        parts = {"text": torch.nn.Linear(3, 2)}  # noqa: RUF012

    digests = []
    for dtype in (torch.float32, torch.bfloat16):
        Frozen.parts["text"].to(dtype)
        digests.append(hash_part(Frozen, "text"))
        assert digests[-1] == hash_part(Frozen, "text") == hash_weights(Frozen.parts["text"])
    assert digests[0] != digests[1]
