"""CPU time a clip of what a user would pick instead of avion, and of avion in the same run.

One sample: open one video, pick frames, decode them, random-resized-crop (scale 0.5..1) to 224x224, uint8 RGB
[frames, 224, 224, 3]. Frames are spread over a random one-second window, or with --stride N every N-th from a random
start. Each kind runs in a process of its own, in turns; CPU time is user + system of that process, after a warm-up, so
that neighbours on the machine count little. Medians over the rounds. Peers and avion draw different windows, whose cost
varies with the distance from the key frame: a few hundred clips are needed for a ratio that means something.

usage: decode_peers.py FOLDER [--frames 4] [--stride 0] [--clips 300] [--rounds 5] [--kinds decord,pyav] [--avion PROGRAM]
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


def crop_and_scale(pictures, rng):
    import cv2
    import numpy as np

    height, width = pictures[0].shape[:2]
    x, y, w, h = 0, 0, width, height
    for _ in range(10):
        area, ratio = width * height * rng.uniform(0.5, 1.0), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        cw, ch = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
        if 0 < cw <= width and 0 < ch <= height:
            x, y, w, h = rng.randrange(0, width - cw + 1), rng.randrange(0, height - ch + 1), cw, ch
            break
    size = (SIZE_PX, SIZE_PX)
    return np.stack([cv2.resize(p[y : y + h, x : x + w], size, interpolation=cv2.INTER_LINEAR) for p in pictures])


def by_decord(path, frames, stride, rng):
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    ids = pick(len(reader), reader.get_avg_fps(), frames, stride, rng)
    return crop_and_scale(reader.get_batch(ids).asnumpy(), rng)


def by_pyav(path, frames, stride, rng):
    import av

    with av.open(path, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        fps = float(stream.average_rate)
        n = stream.frames or int(float(container.duration) / 1e6 * fps)
        ids = pick(n, fps, frames, stride, rng)
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
        return crop_and_scale(pictures, rng)


KINDS = {"decord": by_decord, "pyav": by_pyav}


def measure(kind, files, frames, stride, clips, pipe):
    """Sends CPU and wall seconds a clip."""
    import cv2

    cv2.setNumThreads(1)
    read = KINDS[kind]
    for i in range(2):
        read(files[i % len(files)], frames, stride, random.Random(i))
    cpu, wall = time.process_time(), time.perf_counter()
    for i in range(clips):
        out = read(files[i % len(files)], frames, stride, random.Random(i))
        assert out.shape == (frames, SIZE_PX, SIZE_PX, 3), out.shape
    pipe.send(((time.process_time() - cpu) / clips, (time.perf_counter() - wall) / clips))


def peer(kind, files, args):
    ours, theirs = multiprocessing.Pipe()
    job = (kind, files, args.frames, args.stride, args.clips, theirs)
    process = multiprocessing.Process(target=measure, args=job)
    process.start()
    theirs.close()
    cpu, wall = ours.recv()
    process.join()
    return cpu, wall


def avion(args):
    command = [args.avion, "bench", "decode", "--data", args.folder, "--frames", str(args.frames), "--json"]
    command += ["--clips", str(args.clips), "--workers", "1"]
    if args.stride:
        command += ["--stride", str(args.stride)]
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
    args = parser.parse_args()
    found = glob.glob(os.path.join(args.folder, "**", "*"), recursive=True)
    files = sorted(f for f in found if f.lower().endswith(VIDEOS))
    if not files:
        sys.exit(f"no video under {args.folder}")
    kinds = args.kinds.split(",")
    times = {kind: [] for kind in kinds + (["avion"] if args.avion else [])}
    for _ in range(args.rounds):
        for kind, seen in times.items():
            seen.append(avion(args) if kind == "avion" else peer(kind, files, args))
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
