"""Published classification sets in their published layouts: class, colour, patients and lesions, damage."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError
from tests.data_prep.dicoms import dicom_bytes
from tests.data_prep.pictures import SIDE, box_mask, busi, picture, prepare, rejected, save, written

MD5 = "a1b2c3d4e5f60718293a4b5c6d7e8f0"  # behind the first digit


# ---------------------------------------------------------------------------------------------------------------------
# BUSI


def test_busi_has_classes_grey_pictures_and_united_masks_of_the_same_crop(tmp_path):
    root = busi(tmp_path)
    rows = prepare(root, root, mapping="busi")
    assert rows["class"].to_dict() == {
        f"{kind}_{number}": kind for kind in ("benign", "malignant", "normal") for number in (1, 2)
    }
    assert rows.loc["malignant_2", "text"] == "Breast ultrasound, malignant."
    assert set(rows["mask"]) == {f"masks/{name}.png" for name in rows.index}
    one = rows.loc["benign_1"]
    assert written(one).shape == written(one, "mask").shape == (SIDE, SIDE)
    # The centre 30 × 30 of 40 × 30 pixels, at 24 / 30 of the size.
    expected = np.zeros((SIDE, SIDE), bool)
    for left, top, right, bottom in ((12, 6, 20, 14), (24, 18, 30, 26)):
        x0, y0, x1, y1 = (round(at * 0.8) for at in (left - 5, top, right - 5, bottom))
        expected[y0:y1, x0:x1] = True
    mask = written(one, "mask")
    assert set(np.unique(mask)) == {0, 255}
    assert ((mask > 0) != expected).mean() < 0.03
    assert not written(rows.loc["normal_1"], "mask").any()
    assert read_json(tmp_path / "out/prep.json")["channels"] == 1


def test_folders_of_splits_and_classes_are_a_table(tmp_path):
    for split in ("train", "test"):
        for kind in ("NORMAL", "PNEUMONIA"):
            save(tmp_path / "chest_xray" / split / kind / f"{split}-{kind}.jpeg", picture(1, colour=False))
    rows = prepare(tmp_path / "chest_xray", tmp_path / "chest_xray", prompt_template="{class}", validation_fraction=0)
    assert sorted(zip(rows["split"], rows["class"], strict=True)) == [
        (split, kind) for split in ("test", "train") for kind in ("NORMAL", "PNEUMONIA")
    ]


# ---------------------------------------------------------------------------------------------------------------------
# HAM10000, Fitzpatrick17k, SMDG, RSNA


def ham10000(folder: Path, n_lesions: int = 12) -> tuple[Path, Path]:
    """Two pictures of each lesion, one in either part; the table without a suffix, as published."""
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"]
    for number in range(2 * n_lesions):
        name = f"ISIC_{number:07}"
        save(folder / f"HAM10000/HAM10000_images_part_{1 + number % 2}/{name}.jpg", picture(number))
        save(folder / f"masks/{name}_segmentation.png", box_mask((40, 30), (10, 10, 20, 20)))
        age = "" if number == 0 else "80.0"
        rows.append(
            f"HAM_{number // 2:07},{name},{('mel', 'nv', 'akiec')[number // 2 % 3]},histo,{age},male,scalp,rosendahl"
        )
    table = folder / "HAM10000_metadata"
    table.write_text("\n".join(rows) + "\n")
    return table, folder / "HAM10000"


def test_ham10000_keeps_a_lesion_in_one_split_and_its_colour(tmp_path):
    table, images = ham10000(tmp_path)
    rows = prepare(
        table,
        images,
        mapping="ham10000",
        masks=tmp_path / "masks",
        validation_fraction=0.25,
        test_fraction=0.25,
    )
    assert len(rows) == 24 and rows["split"].nunique() == 3
    assert rows.groupby("subject_id")["split"].nunique().eq(1).all()
    assert set(rows["class"]) == {"melanoma", "melanocytic nevus", "actinic keratosis or intraepithelial carcinoma"}
    assert rows.loc["ISIC_0000000", "text"] == "Dermatoscopy, melanoma."
    assert (rows.loc["ISIC_0000000", "age"], rows.loc["ISIC_0000001", "age"]) == ("", "80.0")
    for _, row in rows.iterrows():
        red, green, blue = written(row).reshape(-1, 3).mean(axis=0)
        assert red + 60 < green < blue - 60
        assert written(row, "mask").any()
    assert read_json(tmp_path / "out/prep.json")["channels"] == 3


def test_the_same_seed_gives_the_same_split_and_another_one_another(tmp_path):
    table, images = ham10000(tmp_path)
    splits = [
        prepare(table, images, mapping="ham10000", output_dir=tmp_path / name, seed=seed, test_fraction=0.4)["split"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert splits[0].equals(splits[1]) and not splits[0].equals(splits[2])


def fitzpatrick17k(folder: Path) -> tuple[Path, Path]:
    names = [f"{number:x}{MD5}" for number in range(6)]
    for number, name in enumerate(names):
        save(folder / f"images/{name}.jpg", picture(number, (30, 40)))
    columns = "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url"
    kinds = ("non-neoplastic", "benign", "malignant")
    cells = [f"{name},{n - 1},2,psoriasis,inflammatory,{kinds[n % 3]},,http://x.org/a" for n, name in enumerate(names)]
    table = folder / "fitzpatrick17k.csv"
    table.write_text("\n".join([columns, *cells]) + "\n")
    return table, folder / "images"


def test_fitzpatrick17k_finds_images_by_md5_and_reports_missing_and_damaged_ones(tmp_path):
    table, images = fitzpatrick17k(tmp_path)
    (images / f"{1:x}{MD5}.jpg").unlink()
    (images / f"{2:x}{MD5}.jpg").write_bytes((images / f"{2:x}{MD5}.jpg").read_bytes()[:-200])
    rows = prepare(table, images, mapping="fitzpatrick17k")
    assert rows["class"].to_dict() == {
        f"{n:x}{MD5}": kind
        for n, kind in {0: "non-neoplastic", 3: "non-neoplastic", 4: "benign", 5: "malignant"}.items()
    }
    assert rows.loc[f"{0:x}{MD5}", ["text", "fitzpatrick_scale"]].tolist() == ["Psoriasis.", "-1.0"]
    assert written(rows.iloc[0]).shape == (SIDE, SIDE, 3)
    assert rejected(tmp_path / "out") == {f"{1:x}{MD5}": "missing image", f"{2:x}{MD5}": "truncated image"}


def test_fitzpatrick17k_has_its_other_classes_by_a_flag(tmp_path):
    table, images = fitzpatrick17k(tmp_path)
    assert set(prepare(table, images, mapping="fitzpatrick17k", columns="class=label")["class"]) == {"psoriasis"}


def smdg(folder: Path) -> tuple[Path, Path]:
    """The folders are there twice, the table has them once, and masks have the names of the images."""
    rows = [",types,fundus,fundus_od_seg,fundus_oc_seg,names,age,gender,eye,original_name"]
    for number, kind in enumerate((0, 1, 0, 1, -1)):
        name = f"BEH-{number}"
        save(folder / f"SMDG/full-fundus/full-fundus/{name}.png", picture(number, (40, 40)))
        for structure, box in {"optic-disc": (10, 10, 30, 30), "optic-cup": (15, 15, 25, 25)}.items():
            if number:
                save(folder / f"SMDG/{structure}/{structure}/{name}.png", box_mask((40, 40), box))
        paths = f"/full-fundus/{name}.png,/optic-disc/{name}.png,/optic-cup/{name}.png"
        rows.append(f"{number},{kind},{paths},{name},,,,{name}.jpg")
    table = folder / "SMDG/metadata - standardized.csv"
    table.write_text("\n".join(rows) + "\n")
    return table, folder / "SMDG"


def test_smdg_has_glaucoma_or_none_and_masks_of_two_structures(tmp_path):
    table, images = smdg(tmp_path)
    rows = prepare(table, images, mapping="smdg", masks=images)
    assert rows["class"].to_dict() == {
        "BEH-0": "no glaucoma",
        "BEH-1": "glaucoma",
        "BEH-2": "no glaucoma",
        "BEH-3": "glaucoma",
    }
    assert rejected(tmp_path / "out") == {"BEH-4": "no class"}
    assert rows.loc["BEH-1", "mask_optic-cup"] == "masks/optic-cup/BEH-1.png"
    disc, cup = (written(rows.loc["BEH-1"], f"mask_optic-{part}") > 0 for part in ("disc", "cup"))
    assert (disc & cup).sum() == cup.sum() and disc.sum() == 4 * cup.sum()
    assert rows.loc["BEH-0", ["mask_optic-cup", "mask_optic-disc"]].tolist() == ["", ""]


def test_rsna_has_a_class_of_its_dicom_files(tmp_path):
    (tmp_path / "stage_2_train_images").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 4096, (40, 40))
        (tmp_path / f"stage_2_train_images/uuid-{number}.dcm").write_bytes(dicom_bytes(pixels))
    cells = ["uuid-0,,,,,0", "uuid-1,1,2,3,4,1", "uuid-1,9,2,3,4,1", "uuid-2,,,,,0", "uuid-3,1,2,3,4,1"]
    table = tmp_path / "stage_2_train_labels.csv"
    table.write_text("\n".join(["patientId,x,y,width,height,Target", *cells]) + "\n")
    rows = prepare(table, tmp_path / "stage_2_train_images", mapping="rsna")
    assert rows["class"].tolist() == ["no pneumonia", "pneumonia", "no pneumonia", "pneumonia"]
    assert rows["Pneumonia"].tolist() == [0, 1, 0, 1]
    assert written(rows.iloc[0]).ndim == 2


def test_rsna_joins_patients_or_three_classes(tmp_path):
    """By the published table of ChestX-ray14's images, or that of detailed classes."""
    for number in range(4):
        save(tmp_path / f"images/uuid-{number}.png", picture(number, (40, 40)))
    table = tmp_path / "stage_2_train_labels.csv"
    cells = ["uuid-0,,,,,0", "uuid-1,1,2,3,4,1", "uuid-1,9,2,3,4,1", "uuid-2,,,,,0", "uuid-3,1,2,3,4,1"]
    table.write_text("\n".join(["patientId,x,y,width,height,Target", *cells]) + "\n")
    images = [
        {"subset_img_id": f"uuid-{n}", "img_id": f"0000000{n // 2}_00{n}.png", "SOPInstanceUID": f"1.{n}", "boxes": [n]}
        for n in range(4)
    ]
    images += [{"subset_img_id": "", "img_id": f"0000000{n}_000.png", "SOPInstanceUID": ""} for n in (7, 8)]
    mappings = tmp_path / "mappings.json"
    mappings.write_text(json.dumps(images))
    rows = prepare(table, tmp_path / "images", mapping="rsna", join=mappings)
    assert rows["subject_id"].tolist() == ["00000000", "00000000", "00000001", "00000001"]
    assert rows["class"].tolist() == ["no pneumonia", "pneumonia", "no pneumonia", "pneumonia"]

    names = ("Normal", "Lung Opacity", "No Lung Opacity / Not Normal", "Lung Opacity")
    detailed = [f"uuid-{n},{name}" for n, name in enumerate(names)]
    (tmp_path / "detailed.csv").write_text("\n".join(["patientId,class", *detailed, detailed[1]]) + "\n")
    rows = prepare(
        table, tmp_path / "images", mapping="rsna", join=tmp_path / "detailed.csv", output_dir=tmp_path / "out2"
    )
    assert rows["class"].tolist() == list(names)
    assert rows["Pneumonia"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("patientId,class\nuuid-0,a\nuuid-0,b\n", "rows of uuid-0 contradict each other"),
        ("file,class\nuuid-0,a\n", r"has no column of the table \(it has: file, class\)"),
        ("patientId,class\nother,a\n", "other"),
    ],
)
def test_a_table_that_does_not_join_is_one_line(tmp_path, content, message):
    save(tmp_path / "images/uuid-0.png", picture(0))
    table = tmp_path / "t.csv"
    table.write_text("patientId,x,Target\nuuid-0,,0\n")
    (tmp_path / "j.csv").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        prepare(table, tmp_path / "images", mapping="rsna", join=tmp_path / "j.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("build", [ham10000, fitzpatrick17k, smdg])
def test_a_wrong_folder_of_images_is_one_line_with_a_name_of_either_side(tmp_path, build):
    table, _ = build(tmp_path)
    save(tmp_path / "other/x.png", picture(0))
    with pytest.raises(UserError, match=r"0 of the \d+ that .* names are in .*other.*x\.png") as error:
        prepare(table, tmp_path / "other", mapping=build.__name__)
    assert "\n" not in str(error.value)


def test_a_mapping_of_another_table_is_one_line(tmp_path):
    table, images = fitzpatrick17k(tmp_path)
    with pytest.raises(UserError, match=r"has no column 'image_id' \(image=image_id; it has: md5hash"):
        prepare(table, images, mapping="ham10000")


def test_colour_of_more_than_8_bits_is_rejected_not_greyed(tmp_path):
    table, images = fitzpatrick17k(tmp_path)
    deep = np.random.default_rng(0).integers(0, 65536, (40, 30, 3), dtype=np.uint16)
    from tests.data_prep.image_variants import raw_png

    (images / f"{0:x}{MD5}.jpg").write_bytes(raw_png(deep, 16))
    prepare(table, images, mapping="fitzpatrick17k")
    assert rejected(tmp_path / "out") == {f"{0:x}{MD5}": "has more than 8 bits per pixel"}


def test_a_coloured_png_says_so_in_its_header(tmp_path):
    from sdcxr.io.png import check_png, encode_png, is_colour

    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for array in (pixels, pixels[..., 0]):
        data = encode_png(array)
        check_png(data)
        (tmp_path / "a.png").write_bytes(data)
        assert is_colour(tmp_path / "a.png") == (array.ndim == 3)
        assert (np.asarray(Image.open(io.BytesIO(data))) == array).all()


def test_copies_of_different_classes_are_told(tmp_path, capsys):
    for place, seed in {"benign/1": 1, "benign/2": 2, "benign/copy of 1": 1, "normal/3": 3}.items():
        save(tmp_path / f"set/{place}.png", picture(seed))
    told = {}
    for name in ("same", "other"):
        flags = {"prompt_template": "{class}.", "image_type": "grey"}
        prepare(tmp_path / "set", tmp_path / "set", output_dir=tmp_path / name, **flags)
        told[name] = "warning: 1 pairs of copies are of different classes" in capsys.readouterr().err
        save(tmp_path / "set/normal/copy of 2.png", picture(2))
    assert told == {"same": False, "other": True}
