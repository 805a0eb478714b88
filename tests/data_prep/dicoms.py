"""DICOM files as radiographs are stored in: 12 bits of 16, one frame or several."""

import io

import numpy as np
import pydicom


def dicom_bytes(pixels: np.ndarray, photometric: str = "MONOCHROME2", syntax: str | None = None) -> bytes:
    """A file with these pixels (rows, columns) or (frames, rows, columns); with a `syntax`, it claims that one."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    if pixels.ndim == 3:
        dataset.NumberOfFrames = pixels.shape[0]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels.astype("<u2").tobytes()
    if syntax:
        dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])
        dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
