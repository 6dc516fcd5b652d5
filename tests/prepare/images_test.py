"""Pixels and what the base says of them."""

import json
import unittest

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from support import PrepareTestCase
from weft_prepare.images import ImageFormat

NO_TEST = ("--test-fraction", "0")
IMAGE = (np.arange(9 * 11 * 3) * 37 % 256).astype(np.uint8).reshape(9, 11, 3)


class ImagesTest(PrepareTestCase):
    def setUp(self):
        super().setUp()
        self.images = self.root / "images"
        for label in ("cat", "dog"):
            (self.images / label).mkdir(parents=True)
            Image.fromarray(IMAGE).save(self.images / label / "a.png")

    def processor(self, **values):
        values = {"size": {"height": 5, "width": 7}, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 0.5, 0.25], **values}
        (self.base / "preprocessor_config.json").write_text(json.dumps(values))

    def decode(self, image, **options):
        path = self.root / "image.png"
        image.save(path)
        return ImageFormat(**options).decode({"path": str(path), "bytes": None})

    def test_size_mean_and_std_of_the_base(self):
        self.processor()
        self.prepare(*NO_TEST, data=self.images)
        self.assertEqual(load_file(self.out / "train.safetensors")["pixels"].shape, (2, 3, 5, 7))
        with safe_open(self.out / "train.safetensors", "np") as file:
            self.assertEqual(file.metadata(), {"image_mean": "0.1,0.2,0.3", "image_std": "1.0,0.5,0.25"})
        self.assertEqual(self.manifest()["max_length"], 0)

    def test_options_stand_above_the_base(self):
        self.processor()
        self.prepare(*NO_TEST, "--image-size", "4x6", "--channels", "1", "--image-mean", "0.25", "--image-std", "2",
                     data=self.images)
        self.assertEqual(load_file(self.out / "train.safetensors")["pixels"].shape, (2, 1, 4, 6))
        with safe_open(self.out / "train.safetensors", "np") as file:
            self.assertEqual(file.metadata(), {"image_mean": "0.25", "image_std": "2.0"})

    def test_size_of_the_config_and_no_base(self):
        (self.base / "config.json").write_text('{"image_size": 6, "num_channels": 1}')
        self.prepare(*NO_TEST, data=self.images)
        self.assertEqual(load_file(self.out / "train.safetensors")["pixels"].shape, (2, 1, 6, 6))
        self.data = self.images
        code, _, problems = self.run_without_base(*NO_TEST, "--image-size", "3")
        self.assertEqual((code, problems), (0, ""))

    def test_pixels_are_those_of_transformers(self):
        try:
            from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
        except ImportError:
            self.skipTest("transformers is not installed; tests/requirements.txt has it")
        for resample in (2, 3):
            self.processor(resample=resample)
            self.prepare(*NO_TEST, data=self.images)
            processor = ViTImageProcessorPil.from_pretrained(self.base, do_rescale=False, do_normalize=False)
            expected = processor(Image.fromarray(IMAGE))["pixel_values"][0]
            pixels = load_file(self.out / "train.safetensors")["pixels"][0]
            np.testing.assert_array_equal(pixels, expected)
            other = processor(Image.fromarray(IMAGE + 1))["pixel_values"][0]
            self.assertFalse(np.array_equal(pixels, other))

    def test_modes_of_images(self):
        colours = np.stack([np.full((2, 2), n, np.uint8) for n in (10, 20, 30)], -1)
        rgba = Image.fromarray(np.dstack([colours, np.full((2, 2), 255, np.uint8)]))
        for image in (Image.fromarray(colours), rgba, Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE)):
            self.assertEqual(self.decode(image, size=[2, 2]).reshape(3, 4).tolist(), [[n] * 4 for n in (10, 20, 30)])
        grey = Image.fromarray(np.array([[0, 255]], np.uint8))
        self.assertEqual(self.decode(grey, size=[1, 2]).tolist(), [[[0, 255]]] * 3)
        deep = Image.fromarray(np.array([[0, 0x1234, 0xFFFF]], np.uint16))
        self.assertEqual(self.decode(deep, size=[1, 3], channels=1).tolist(), [[[0, 0x12, 0xFF]]])

    def test_turned_photographs_are_turned_back(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter to the right
        path = self.root / "turned.png"
        Image.fromarray(np.array([[1, 2]], np.uint8)).save(path, exif=exif)
        pixels = ImageFormat(size=[2, 1], channels=1).decode({"path": str(path), "bytes": None})
        self.assertEqual(pixels.tolist(), [[[1], [2]]])

    def test_dropped(self):
        path = self.root / "float.tiff"
        Image.fromarray(np.zeros((2, 2), np.float32)).save(path)
        self.assertIn("32-bit", ImageFormat(size=[2, 2]).decode({"path": str(path), "bytes": None}).reason)
        self.assertEqual(ImageFormat(size=[2, 2]).decode({"path": str(self.root / "nosuch"), "bytes": None}).reason,
                         "unreadable image")

    def test_refusals(self):
        self.assert_refused("INVALID_ARGUMENT", "no height and width", "--image-size", data=self.images)
        self.processor(size={"shortest_edge": 224})
        self.assert_refused("INVALID_ARGUMENT", "no height and width", data=self.images)
        self.processor(image_mean=[0.5, 0.5])
        self.assert_refused("INVALID_ARGUMENT", "--image-mean", "expected 3 numbers", data=self.images)
        self.processor(image_std=[0, 1, 1])
        self.assert_refused("INVALID_ARGUMENT", "--image-std", "above 0", data=self.images)
        (self.base / "config.json").write_text('{"num_channels": 4}')
        self.assert_refused("INVALID_ARGUMENT", "4 channels", data=self.images)
        self.assert_refused("NOT_FOUND", "no such folder", "--base", data=self.images, base=self.root / "nosuch")


if __name__ == "__main__":
    unittest.main()
