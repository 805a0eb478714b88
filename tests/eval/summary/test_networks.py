"""What the networks are that measure."""

import json

from eval.summary.networks import about_network, measured_with
from tests.eval.summary.test_sections import row


def test_a_run_says_what_it_was_trained_on(tmp_path):
    run, data = tmp_path / "run", tmp_path / "data"
    (run / "classifier").mkdir(parents=True)
    data.mkdir()
    (run / "config.yaml").write_text(f"tune: classifier\nbase: resnet\ndata: {data}\nresolution: 64\n")
    said = f"trained with train.py --tune classifier from resnet on {data}; input of 64 px"
    assert about_network(str(run)) == about_network(f"{run / 'classifier'}, logits") == said
    (data / "prep.json").write_text(json.dumps({"phantom": True}))
    assert f"on {data}, phantoms and not radiographs; input" in about_network(str(run))
    (run / "config.yaml").write_text("[")
    assert about_network(str(run)) == ""


def test_published_networks_have_their_description():
    assert about_network("inception@clean") == "Inception-v3 of the FID, 2048"
    assert about_network("pixels-64").startswith("N × N grey values")
    assert about_network("unknown") == ""


def test_standard_networks_that_are_absent_are_named():
    rows = [row("fidelity", "fd", 1.0, extractor="rad-dino@native")]
    networks, absent = measured_with(rows)
    assert networks.startswith("The networks behind the distances: rad-dino@native (microsoft/rad-dino")
    assert absent.startswith("Not measured with the standard networks FID Inception, TorchXRayVision (XRV):")
    assert (
        len(
            measured_with(
                [row("fidelity", "fd", 1.0, extractor=f"{n}@x") for n in ("inception", "xrv-all", "rad-dino")]
            )
        )
        == 1
    )
    assert measured_with([row("classifier", "auroc", 1.0)]) == []
