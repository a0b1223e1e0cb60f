"""CPU time a clip of what a user would pick instead of avion, and of avion in the same run.

One sample: open one video, pick frames, decode them, random-resized-crop (scale 0.5..1) to 224x224, uint8 RGB
[frames, 224, 224, 3]. Frames are spread over a random one-second window, or with --stride N every N-th from a random
start. Each kind runs in a process of its own, in turns; CPU time is user + system of that process, after a warm-up, so
that neighbours on the machine count little. Medians over the rounds. All decode the same frames and crops, drawn beforehand.

usage: decode_peers.py FOLDER [--frames 4] [--stride 0] [--clips 300] [--rounds 5] [--kinds decord,pyav] [--avion PROGRAM]
       [--set KEY=VALUE]
needs: pip install decord av numpy opencv-python-headless
"""

import argparse
import glob
import json
import math
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

VIDEOS = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".m4v")
SIZE_PX = 224


def pick(n, fps, frames, stride, rng):
    """Frame numbers, ascending."""
    if stride:
        span = (frames - 1) * stride + 1
        start = rng.randrange(0, max(1, n - span + 1))
        return [min(n - 1, start + i * stride) for i in range(frames)]
    span = min(n - 1, max(frames, int(round(fps))))
    start = rng.randrange(0, max(1, n - span))
    return [min(n - 1, start + int((i + rng.random()) * span / frames)) for i in range(frames)]


def draw_crop(width, height, rng):
    """x, y, width, height."""
    for _ in range(10):
        area, ratio = width * height * rng.uniform(0.5, 1.0), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        cw, ch = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
        if 0 < cw <= width and 0 < ch <= height:
            return rng.randrange(0, width - cw + 1), rng.randrange(0, height - ch + 1), cw, ch
    return 0, 0, width, height


def draw(files, args):
    """Samples, as `avion bench decode --samples` reads them."""
    import av

    known, samples = {}, []
    for i in range(args.clips):
        path, rng = files[i % len(files)], random.Random(i)
        if path not in known:
            with av.open(path, metadata_errors="replace") as container:
                stream = container.streams.video[0]
                fps = float(stream.average_rate)
                n = stream.frames or int(float(container.duration) / 1e6 * fps)
                known[path] = n, fps, stream.width, stream.height
        n, fps, width, height = known[path]
        frames, (x, y, w, h) = pick(n, fps, args.frames, args.stride, rng), draw_crop(width, height, rng)
        samples.append({"video": path, "frames": frames, "crop": {"x": x, "y": y, "width": w, "height": h}})
    return samples


def crop_and_scale(pictures, crop):
    import cv2
    import numpy as np

    x, y, w, h = (crop[key] for key in ("x", "y", "width", "height"))
    size = (SIZE_PX, SIZE_PX)
    return np.stack([cv2.resize(p[y : y + h, x : x + w], size, interpolation=cv2.INTER_LINEAR) for p in pictures])


def by_decord(sample):
    import decord

    reader = decord.VideoReader(sample["video"], num_threads=1)
    return crop_and_scale(reader.get_batch(sample["frames"]).asnumpy(), sample["crop"])


def by_pyav(sample):
    import av

    with av.open(sample["video"], metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        fps, ids = float(stream.average_rate), sample["frames"]
        container.seek(int(ids[0] / fps / stream.time_base), stream=stream)
        pictures, at = [], 0
        for frame in container.decode(stream):
            # Half a frame of tolerance, as times are rounded to the time base.
            if round(float(frame.pts * stream.time_base) * fps) >= ids[at]:
                picture, number = frame.to_ndarray(format="rgb24"), round(float(frame.pts * stream.time_base) * fps)
                while at < len(ids) and number >= ids[at]:
                    pictures.append(picture)
                    at += 1
                if at == len(ids):
                    break
        return crop_and_scale(pictures, sample["crop"])


KINDS = {"decord": by_decord, "pyav": by_pyav}


def measure(kind, samples, pipe):
    """Sends CPU and wall seconds a clip."""
    import cv2

    cv2.setNumThreads(1)
    read = KINDS[kind]
    for sample in samples[:2]:
        read(sample)
    cpu, wall = time.process_time(), time.perf_counter()
    for sample in samples:
        out = read(sample)
        assert out.shape == (len(sample["frames"]), SIZE_PX, SIZE_PX, 3), out.shape
    pipe.send(((time.process_time() - cpu) / len(samples), (time.perf_counter() - wall) / len(samples)))


def peer(kind, samples):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=measure, args=(kind, samples, theirs))
    process.start()
    theirs.close()
    cpu, wall = ours.recv()
    process.join()
    return cpu, wall


def avion(args, samples):
    command = [args.avion, "bench", "decode", "--samples", samples, "--workers", "1", "--json"]
    command += [word for change in args.set for word in ("--set", change)]
    row = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["rows"][0]
    return row["figures"]["cpu_ms_per_clip"] / 1e3, 1 / row["figures"]["clips_per_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--stride", type=int, default=0, help="0: spread over a random second")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default="decord,pyav")
    parser.add_argument("--avion", help="path of the avion program, to be measured in turns with them")
    parser.add_argument("--set", action="append", default=[], help="a setting of avion's, e.g. data.scale_on_device=true")
    args = parser.parse_args()
    found = glob.glob(os.path.join(args.folder, "**", "*"), recursive=True)
    files = sorted(f for f in found if f.lower().endswith(VIDEOS))
    if not files:
        sys.exit(f"no video under {args.folder}")
    kinds = args.kinds.split(",")
    times = {kind: [] for kind in kinds + (["avion"] if args.avion else [])}
    samples = draw(files, args)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(sample) + "\n" for sample in samples)
        file.flush()
        for _ in range(args.rounds):
            for kind, seen in times.items():
                seen.append(avion(args, file.name) if kind == "avion" else peer(kind, samples))
    best = min(statistics.median(cpu for cpu, _ in times[kind]) for kind in kinds)
    for kind, seen in times.items():
        cpu, wall = (statistics.median(column) for column in zip(*seen))
        low, high = min(c for c, _ in seen), max(c for c, _ in seen)
        print(
            f"{kind:7s} {1e3 * cpu:8.2f} ms of CPU a clip ({1e3 * low:.2f} .. {1e3 * high:.2f})"
            f"  {1 / cpu:7.1f} clips/s a core  {best / cpu:5.2f} x the better peer  ({1 / wall:.1f} clips/s by the clock)"
        )


if __name__ == "__main__":
    main()
