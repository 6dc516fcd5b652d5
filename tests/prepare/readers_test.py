"""Each kind of input: what is read of it, and what is refused."""

import gzip
import io
import json
import pathlib
import struct
import unittest

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from support import PrepareTestCase, rows_of

NO_TEST = ("--test-fraction", "0")
FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")


def idx(values, *shape):
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(values)


def png(pixels, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8)).save(file, form)
    return file.getvalue()


class CsvTest(PrepareTestCase):
    def test_quotes_commas_and_line_ends_within_a_field(self):
        data = self.write("d.csv", 'text,label\r\n"one, ""two""\nthree",red\r\nNA,blue\r\nnull,7\r\n')
        self.prepare(*NO_TEST, data=data)
        rows, labels = rows_of(self.out / "train.safetensors")
        self.assertEqual(rows, [[1, 3, 0, 0, 4, 0, 5, 2], [1, 0, 2], [1, 0, 2]])
        self.assertEqual([self.manifest()["labels"][i] for i in labels], ["red", "blue", "7"])

    def test_refusals(self):
        for content, *words in (("text,label\none,red,x\n", "line 2", "found 3 fields", "separated by commas"),
                                ('text,label\n"one"two,red\n', "line 2", "one row a line"),
                                ('text,label\none,"red\n', "line 2", "one row a line"), ("", "empty file"),
                                ("text,label\n", "no rows")):
            self.assert_refused("INVALID_ARGUMENT", "d.csv", *words, data=self.write("d.csv", content), options=NO_TEST)


class JsonlTest(PrepareTestCase):
    def write_rows(self, *rows):
        return self.write("d.jsonl", "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))

    def test_values_of_other_types_and_missing_ones(self):
        data = self.write_rows({"text": "one", "label": 1}, "", {"label": True, "text": "two"}, {"text": None, "label": 1},
                               {"text": 3, "label": "1"}, {"text": "one"}, {"text": ["one"], "label": 1},
                               {"text": "three", "label": "", "more": 1})
        summary = self.prepare(*NO_TEST, data=data)
        self.assertEqual(rows_of(self.out / "train.safetensors"), ([[1, 3, 2], [1, 4, 2], [1, 0, 2]], [0, 1, 0]))
        self.assertEqual(self.manifest()["labels"], ["1", "True"])
        self.assertEqual(summary["dropped"], {"empty text": 1, "missing label": 2, "text that is none": 1})

    def test_refusals(self):
        for rows, *words in ((["{"], "line 1", "not JSON"), ([{"text": "a", "label": "b"}, "[1]"], "line 2", "JSON list"),
                             ([""], "empty file"), ([{"body": "a", "label": "b"}], 'no column "text"', "--text-column")):
            self.assert_refused("INVALID_ARGUMENT", "d.jsonl", *words, data=self.write_rows(*rows), options=NO_TEST)
        self.assert_refused("INVALID_ARGUMENT", "line 1", "not UTF-8", data=self.write("d.jsonl", b'{"text": "\xe9"}\n'))


class TablesTest(PrepareTestCase):
    def dataset(self):
        import datasets

        datasets.disable_progress_bars()
        features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image(),
                                      "label": datasets.ClassLabel(names=["yes", "no", "never"])})
        images = [{"bytes": png([[i, 2], [3, 4]]), "path": None} for i in range(3)] + [{"bytes": b"none", "path": None}]
        return datasets.Dataset.from_dict({"text": ["one", "two two", None, "three"], "image": images,
                                           "label": [1, 0, 0, -1]}, features=features)

    def folders(self):
        """The same rows as a file, as two files, and as a saved dataset."""
        dataset = self.dataset()
        (self.root / "many").mkdir()
        dataset.to_parquet(self.root / "d.parquet")
        dataset.select([0, 1]).to_parquet(self.root / "many/train-00000-of-00002.parquet")
        dataset.select([2, 3]).to_parquet(self.root / "many/train-00001-of-00002.parquet")
        dataset.save_to_disk(self.root / "saved")
        return [self.root / "d.parquet", self.root / "many", self.root / "saved"]

    def test_texts_and_names_of_classes(self):
        for data in self.folders():
            summary = self.prepare(*NO_TEST, data=data)
            self.assertEqual(rows_of(self.out / "train.safetensors"), ([[1, 3, 2], [1, 4, 4, 2]], [1, 0]))
            self.assertEqual(self.manifest()["labels"], ["yes", "no", "never"])
            self.assertEqual(summary["dropped"], {"empty text": 1, "missing label": 1})

    def test_images(self):
        for data in self.folders():
            options = (*NO_TEST, "--task", "image_classification", "--image-size", "2", "--channels", "1")
            summary = self.prepare(*options, data=data)
            tensors = load_file(self.out / "train.safetensors")
            self.assertEqual(tensors["pixels"].tolist(), [[[[i, 2], [3, 4]]] for i in range(3)])
            self.assertEqual(tensors["labels"].tolist(), [1, 0, 0])
            self.assertEqual(summary["dropped"], {"missing label": 1})

    def test_nothing_is_left_in_the_home_folder_or_beside_the_data(self):
        data = self.folders()[0]
        before = sorted(self.root.rglob("*"))
        self.prepare(*NO_TEST, data=data)
        after = [path for path in self.root.rglob("*") if self.out not in [path, *path.parents]]
        self.assertEqual(sorted(after), before)

    def test_refusals(self):
        self.assert_refused("INVALID_ARGUMENT", "cannot be read as Parquet", data=self.write("d.parquet", "none"))
        self.assert_refused("INVALID_ARGUMENT", "no file *.parquet", data=self.base, options=("--kind", "parquet"))
        self.assert_refused("INVALID_ARGUMENT", "a dataset saved to disk", data=self.base, options=("--kind", "dataset"))
        self.assert_refused("INVALID_ARGUMENT", "not a folder", options=("--kind", "dataset"))


class TextFolderTest(PrepareTestCase):
    def folder(self, files):
        for name, content in files.items():
            path = self.root / "texts" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.root / "texts"

    def test_labels_of_folders(self):
        data = self.folder({"red/b.txt": "two", "red/a.txt": "one", "blue/c.TXT": "three\none", "blue/d.txt": b"\xff",
                            "blue/notes.md": "x", ".hidden": "x", "red/e.txt": " \n"})
        summary = self.prepare(*NO_TEST, data=data)
        self.assertEqual(rows_of(self.out / "train.safetensors"), ([[1, 5, 3, 2], [1, 3, 2], [1, 4, 2]], [0, 1, 1]))
        self.assertEqual(summary["dropped"], {"file of another type": 2, "text that is not UTF-8": 1, "empty text": 1})

    def test_splits_above_labels(self):
        data = self.folder({"train/red/a.txt": "one", "test/blue/b.txt": "two"})
        self.prepare(data=data)
        self.assertEqual(rows_of(self.out / "train.safetensors"), ([[1, 3, 2]], [1]))
        self.assertEqual(rows_of(self.out / "test.safetensors"), ([[1, 4, 2]], [0]))

    def test_files_without_labels_to_learn(self):
        data = self.folder({"a.txt": "one two", "b.txt": "two one"})
        self.assertEqual(self.prepare(*NO_TEST, "--task", "causal_lm", data=data)["rows"], 2)
        self.assert_refused("INVALID_ARGUMENT", 'no column "label"', data=data, options=NO_TEST)

    def test_refusals(self):
        data = self.folder({"red/a.txt": "one", "b.txt": "two"})
        self.assert_refused("INVALID_ARGUMENT", "0, 1 folders deep", "SPLIT/LABEL", data=data)
        self.assert_refused("INVALID_ARGUMENT", "no files *.txt", data=self.base, options=("--kind", "text-folder"))
        self.assert_refused("INVALID_ARGUMENT", "not a folder", options=("--kind", "text-folder"))


class ImageFolderTest(PrepareTestCase):
    def test_images_of_folders(self):
        for name, content in {"cat/a.png": png(np.full((4, 4, 3), 9)), "cat/b.jpg": png(np.full((3, 5), 200), "JPEG"),
                              "dog/c.png": png(np.zeros((2, 2))), "dog/d.png": b"no image",
                              "dog/e.png": png(np.random.default_rng(1).integers(256, size=(40, 40)))[:900], "dog/Thumbs.db": b""}.items():
            path = self.root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        summary = self.prepare(*NO_TEST, "--image-size", "2x3", data=self.root / "images")
        tensors = load_file(self.out / "train.safetensors")
        self.assertEqual(tensors["pixels"].shape, (3, 3, 2, 3))
        self.assertEqual([set(image.reshape(-1).tolist()) for image in tensors["pixels"]], [{9}, {200}, {0}])
        self.assertEqual(tensors["labels"].tolist(), [0, 0, 1])
        self.assertEqual(self.manifest()["task"], "image_classification")
        self.assertEqual(summary["dropped"], {"unreadable image": 2, "file of another type": 1})


class IdxTest(PrepareTestCase):
    def folder(self, **changed):
        files = {"train_images": idx(range(24), 4, 2, 3), "train_labels": idx([2, 0, 1, 11], 4),
                 "t10k_images": idx(range(6), 1, 2, 3), "t10k_labels": idx([5], 1), **changed}
        folder = self.root / "idx"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            split, what = name.split("_")
            packed = split == "train"
            path = folder / f"{split}-{what}-idx{3 if what == 'images' else 1}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
        return folder

    def run_prepare(self, *options, **places):
        return super().run_prepare("--image-size", "2x3", "--channels", "1", *options, **places)

    def test_files_of_a_folder(self):
        self.prepare(data=self.folder())
        tensors = load_file(self.out / "train.safetensors")
        self.assertEqual(tensors["pixels"].tolist(), np.arange(24).reshape(4, 1, 2, 3).tolist())
        self.assertEqual(tensors["labels"].tolist(), [2, 0, 1, 11])
        self.assertEqual(load_file(self.out / "test.safetensors")["labels"].tolist(), [5])
        self.assertEqual(self.manifest()["labels"], [str(i) for i in range(12)])

    def test_one_file(self):
        data = self.folder() / "train-images-idx3-ubyte.gz"
        self.assertEqual(self.prepare("--test-fraction", "0", data=data)["rows"], 4)

    def test_refusals(self):
        whole = idx(range(24), 4, 2, 3)
        for files, *words in (({"train_images": whole[:-1]}, "ends too early"), ({"train_images": whole + b"x"}, "goes on"),
                              ({"train_images": whole[:7]}, "ends too early"),
                              ({"train_labels": idx([1, 2], 2)}, "4 images but 2 labels"),
                              ({"train_images": idx(range(8), 4, 2)}, "starts with 00000802"),
                              ({"t10k_labels": b"\0\0\x0b\x01"}, "starts with 00000b01"),
                              ({"train_images": idx([], 4, 0, 3)}, "without pixels")):
            self.assert_refused("INVALID_ARGUMENT", *words, data=self.folder(**files))
        (self.folder() / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-9])
        self.assert_refused("INVALID_ARGUMENT", "cannot be unpacked", data=self.root / "idx")
        (self.folder() / "t10k-labels-idx1-ubyte").unlink()
        self.assert_refused("NOT_FOUND", "t10k-labels-idx1-ubyte", data=self.root / "idx")
        self.assert_refused("INVALID_ARGUMENT", "no file SPLIT-images", data=self.base, options=("--kind", "idx"))

    def test_fashion_mnist(self):
        if not FASHION_MNIST.is_dir():
            self.skipTest("Debian's dataset-fashion-mnist is not installed")
        code, _, problems = super().run_prepare("--image-size", "28", "--channels", "1", data=FASHION_MNIST)
        self.assertEqual((code, problems), (0, ""))
        self.assertEqual([self.manifest()["splits"][name]["rows"] for name in ("train", "test")], [60000, 10000])
        tensors = load_file(self.out / "test.safetensors")
        self.assertEqual(np.bincount(tensors["labels"]).tolist(), [1000] * 10)
        self.assertEqual(tensors["pixels"].shape, (10000, 1, 28, 28))


if __name__ == "__main__":
    unittest.main()
