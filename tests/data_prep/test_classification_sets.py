"""Published classification sets in their published layouts: class, colour, patients and lesions, masks, damage."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.masks import find_masks
from data_prep.medmnist import CLASSES, FINDINGS
from data_prep.table import TableConfig, main
from sdcxr.io.files import read_json
from sdcxr.io.manifest import SPLITS, read_metadata
from sdcxr.runtime.errors import UserError
from tests.data_prep.dicoms import dicom_bytes

SIDE = 24
MD5 = "a1b2c3d4e5f60718293a4b5c6d7e8f0"  # behind the first digit


def picture(seed: int, size: tuple[int, int] = (40, 30), colour: bool = True) -> Image.Image:
    """Noise whose red, green and blue differ in brightness."""
    noise = np.random.default_rng(seed).integers(0, 100, size[::-1], dtype=np.uint8)
    return Image.fromarray(np.stack([noise, noise + 70, noise + 140], axis=-1) if colour else noise)


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """White in left, top, right, bottom."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def config_of(table: Path, images: Path, **flags: object) -> TableConfig:
    settings: dict = {
        "output_dir": images.with_name("out"),
        "resolution": SIDE,
        "workers": 1,
        "max_rejected_fraction": 1,
    }
    return TableConfig(table=table, images=images, **(settings | flags))


def prepare(table: Path, images: Path, **flags: object) -> pd.DataFrame:
    """Run the command; all rows that were written, by dicom_id."""
    config = config_of(table, images, **flags)
    assert main(config) == 0
    splits = [config.output_dir / split for split in SPLITS if (config.output_dir / split).is_dir()]
    rows = pd.concat([read_metadata(split).assign(split=split.name, folder=split) for split in splits])
    return rows.set_index("dicom_id").sort_index()


def written(row: pd.Series, column: str = "file_name") -> np.ndarray:
    return np.asarray(Image.open(row["folder"] / row[column]))


def rejected(output_dir: Path) -> dict[str, str]:
    table = pd.read_csv(output_dir / "rejected.csv", dtype=str, keep_default_na=False)
    return dict(zip(table["dicom_id"], table["reason"], strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# BUSI


def busi(folder: Path) -> Path:
    """Two pictures of each class, with masks; benign (1) has two lesions."""
    root = folder / "Dataset_BUSI_with_GT"
    for kind in ("benign", "malignant", "normal"):
        for number in (1, 2):
            name = f"{kind}/{kind} ({number})"
            grey = picture(len(kind) + number, colour=False)
            save(root / f"{name}.png", grey.convert("RGB"))
            lesion = (12, 6, 20, 14) if kind != "normal" else (0, 0, 0, 0)
            save(root / f"{name}_mask.png", box_mask(grey.size, lesion))
    save(root / "benign/benign (1)_mask_1.png", box_mask((40, 30), (24, 18, 30, 26)))
    return root


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


def test_masks_are_part_of_what_a_finished_folder_is_compared_with(tmp_path, capsys):
    root = busi(tmp_path)
    rows = prepare(root, root, mapping="busi")
    prepare(root, root, mapping="busi")
    assert "nothing to do" in capsys.readouterr().out
    before = (rows.loc["benign_2", "folder"] / "masks/benign_2.png").read_bytes()

    (rows.loc["benign_2", "folder"] / "masks/benign_2.png").unlink()
    prepare(root, root, mapping="busi")
    assert "1 PNGs are missing or damaged" in capsys.readouterr().out
    assert (rows.loc["benign_2", "folder"] / "masks/benign_2.png").read_bytes() == before

    save(root / "benign/benign (2)_mask_1.png", box_mask((40, 30), (24, 18, 30, 26)))
    prepare(root, root, mapping="busi")
    assert (rows.loc["benign_2", "folder"] / "masks/benign_2.png").read_bytes() != before

    for path in root.rglob("malignant (1)*"):
        path.unlink()
    prepare(root, root, mapping="busi")
    assert not list((tmp_path / "out").rglob("*malignant_1.png"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: save(path, box_mask((20, 30), (0, 0, 9, 9))), "mask of another size"),
        (lambda path: save(path, picture(3).convert("L")), "mask of several levels"),
        (
            lambda path: save(path, Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40) % 3)),
            "several levels",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "image"),
    ],
    ids=["size", "photograph", "class numbers", "cut off"],
)
def test_a_mask_that_is_none_rejects_its_image(tmp_path, damage, reason):
    root = busi(tmp_path)
    damage(root / "malignant/malignant (2)_mask.png")
    assert "malignant_2" not in prepare(root, root, mapping="busi").index
    assert reason in rejected(tmp_path / "out")["malignant_2"]


def test_a_dataset_with_masks_is_an_image_folder(tmp_path):
    from datasets import load_dataset

    root = busi(tmp_path)
    rows = prepare(root, root, mapping="busi", validation_fraction=0, test_fraction=0)
    loaded = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(loaded["class"]) == sorted(rows["class"])
    assert set(loaded["mask"]) == set(rows["mask"])


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


# ---------------------------------------------------------------------------------------------------------------------
# MedMNIST


def npz(path: Path, channels: int = 3, side: int = SIDE, labels: int = 1, n_classes: int = 2) -> Path:
    """Six images for training, two for validation and four for testing, with each class in each split."""
    arrays = {}
    for seed, (split, n) in enumerate({"train": 6, "val": 2, "test": 4}.items()):
        rng = np.random.default_rng(seed)
        shape = (n, side, side) if channels == 1 else (n, side, side, channels)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        numbers = np.arange(n * labels).reshape(n, labels) % n_classes
        arrays[f"{split}_labels"] = numbers.astype(np.uint8)
    np.savez_compressed(path, **arrays)
    return path


def test_medmnist_has_the_official_split_the_pixels_and_the_names_of_classes(tmp_path):
    table = npz(tmp_path / "pathmnist.npz", n_classes=9)
    rows = prepare(table, tmp_path / "unpacked")
    assert rows["split"].value_counts().to_dict() == {"train": 6, "test": 4, "validation": 2}
    arrays = np.load(table)
    for split, ours in (("train", "train"), ("val", "validation"), ("test", "test")):
        for number, pixels in enumerate(arrays[f"{split}_images"]):
            row = rows.loc[f"{split}_{number:06}"]
            assert (row["split"], row["class"]) == (ours, CLASSES["path"][arrays[f"{split}_labels"][number, 0]])
            assert (written(row) == pixels).all()
    assert read_json(tmp_path / "out/prep.json")["channels"] == 3


def test_grey_sets_of_medmnist_stay_grey(tmp_path):
    rows = prepare(npz(tmp_path / "pneumoniamnist_64.npz", channels=1), tmp_path / "unpacked")
    assert written(rows.iloc[0]).shape == (SIDE, SIDE)
    assert rows.loc["train_000001", ["class", "text"]].tolist() == ["pneumonia", "pneumonia"]
    assert read_json(tmp_path / "out/prep.json")["channels"] == 1


def test_dark_pictures_that_are_no_radiographs_are_kept(tmp_path):
    """Of TissueMNIST most pixels are black."""
    table = npz(tmp_path / "tissuemnist.npz", channels=1)
    arrays = dict(np.load(table))
    for name in ("train_images", "val_images", "test_images"):
        arrays[name][:, 4:] = 0
    np.savez(table, **arrays)
    assert len(prepare(table, tmp_path / "unpacked")) == 12


def test_chestmnist_has_a_column_for_every_finding(tmp_path):
    table = npz(tmp_path / "chestmnist.npz", channels=1, labels=len(FINDINGS))
    arrays = dict(np.load(table))
    arrays["train_labels"][:2] = 0
    arrays["train_labels"][1, [FINDINGS.index("mass"), FINDINGS.index("hernia")]] = 1
    np.savez(table, **arrays)
    rows = prepare(table, tmp_path / "unpacked")
    first, second = rows.loc["train_000000"], rows.loc["train_000001"]
    assert (first["text"], second["text"]) == ("no finding", "mass and hernia")
    assert (first["No Finding"], first["Lung Lesion"], first["Edema"]) == (1, 0, 0)
    assert (second["No Finding"], second["Lung Lesion"], second["hernia"]) == (0, 1, "1.0")
    assert np.isnan(first["Lung Opacity"])  # infiltration alone does not rule it out
    assert "class" not in rows


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.rename(path.with_name("organmnist3d.npz")), "holds volumes"),
        (lambda path: path.rename(path.with_name("features.npz")), "is called as no file of MedMNIST"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is not a whole file of MedMNIST"),
        (lambda path: path.write_bytes(b"nothing"), "is not a whole file of MedMNIST"),
        (lambda path: npz(path.with_name("octmnist.npz"), n_classes=6), "has 5, and octmnist 4 classes"),
        (lambda path: npz(path, labels=3), "has shape"),
        (lambda path: np.savez(path, train_labels=np.zeros((1, 1), int)), "is not a whole file of MedMNIST"),
        (lambda path: np.savez(path, train_labels=np.array([{}])), "is not a whole file of MedMNIST"),
        (lambda path: Path.unlink(path), "does not exist"),
    ],
    ids=["3d", "other", "cut", "bytes", "classes", "labels", "arrays", "pickle", "missing"],
)
def test_a_wrong_npz_is_one_line(tmp_path, damage, message):
    path = npz(tmp_path / "pathmnist.npz")
    path = damage(path) or path
    path = path if isinstance(path, Path) else tmp_path / "pathmnist.npz"
    with pytest.raises(UserError, match=message) as error:
        prepare(path, tmp_path / "unpacked")
    assert "\n" not in str(error.value)


def test_small_images_are_not_enlarged_unasked(tmp_path):
    with pytest.raises(UserError, match="have 24 pixels: give --resolution 24"):
        prepare(npz(tmp_path / "bloodmnist.npz"), tmp_path / "unpacked", resolution=512)


# ---------------------------------------------------------------------------------------------------------------------
# Masks by name


@pytest.mark.parametrize(
    ("place", "structure"),
    [
        ("masks/a.png", ""),
        ("masks/a_mask.png", ""),
        ("masks/a-mask-2.png", ""),
        ("masks/lungs/a.png", "lungs"),
        ("masks/left lung/more/left lung/a_seg.png", "left-lung"),
        ("images/a_mask.png", ""),
    ],
)
def test_masks_are_found_by_the_name_of_the_image(tmp_path, place, structure):
    image = save(tmp_path / "images/a.png", picture(0))
    save(tmp_path / "images/b.png", picture(0))
    mask = save(tmp_path / place, box_mask((40, 30), (0, 0, 9, 9)))
    rows = pd.DataFrame({"dicom_id": ["a", "b"], "source": [str(image), str(image.with_name("b.png"))]})
    assert find_masks(mask.parents[place.count("/") - 1], rows).tolist() == [{structure: [str(mask)]}, {}]


def test_no_mask_at_all_is_one_line(tmp_path):
    root = busi(tmp_path)
    shutil.copytree(root / "normal", tmp_path / "others")
    with pytest.raises(UserError, match=r"--masks .*others: no image has a mask \(looked for NAME.png") as error:
        prepare(root, root, mapping="busi", masks=tmp_path / "others", limit=1, seed=2)
    assert "\n" not in str(error.value)


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
