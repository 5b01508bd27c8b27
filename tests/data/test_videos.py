"""Videos are decoded whole, or refused: FFmpeg makes up what is missing of a frame, and ends early without a word."""

from pathlib import Path

import numpy as np
import pytest

from lpgpu.data import DataError
from lpgpu.data.hmdb51 import decode
from tests.data.har_files import SHARED, need


def test_decoding_the_real_clips():
    pytest.importorskip("av", reason="needs the package av")
    folder = need(SHARED / "raw" / "hmdb51" / "wave").parent
    clip = folder / "cartwheel" / "Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"
    assert decode(clip, 999).shape == (83, 240, 320, 3) and decode(clip, 5).shape == (5, 240, 320, 3)


@pytest.fixture
def encode(tmp_path: Path):
    """Writes a video, MPEG-4 in AVI, of 24 frames of noise for each of these widths."""
    av = pytest.importorskip("av", reason="needs the package av")

    def encode(name: str, *widths: int) -> Path:
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=30, width=widths[0], height=64, pix_fmt="yuv420p")
            for place, width in enumerate(widths):
                encoder = av.CodecContext.create("mpeg4", "w")
                encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = width, 64, "yuv420p", 30
                frames = np.random.default_rng(1).integers(0, 256, (24, 64, width, 3), dtype=np.uint8)
                packets = [encoder.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")) for frame in frames]
                for i, packet in enumerate(packet for each in [*packets, encoder.encode()] for packet in each):
                    packet.stream, packet.pts, packet.dts = stream, 24 * place + i, 24 * place + i
                    container.mux(packet)
        return tmp_path / name

    return encode


def test_a_video_that_was_cut_off(encode):
    path = encode("clip.avi", 96)
    assert decode(path, 99).shape == (24, 64, 96, 3)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"clip\.avi is damaged: its (header declares 24 frames|frame \d+ cannot be)"):
        decode(path, 99)
    assert len(decode(path, 3)) == 3  # what is wanted of it is whole


def test_a_video_with_flipped_bits(encode):
    path = encode("clip.avi", 96)
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, len(content) // 2, 101):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"clip\.avi is damaged"):
        decode(path, 99)


def test_a_video_whose_frames_change_their_size(encode):
    path = encode("clip.avi", 96, 128)
    with pytest.raises(DataError, match=r"clip\.avi is damaged: from frame 24 on the size .* 96×64 to 128×64"):
        decode(path, 99)


def test_the_real_clips_are_whole():
    """Their headers count an empty frame more."""
    pytest.importorskip("av", reason="needs the package av")
    folder = need(SHARED / "raw" / "hmdb51")
    counts = sorted(len(decode(path, 999)) for path in folder.rglob("*.avi"))
    assert counts == [48, 72, 74, 83]
