"""Death at a chosen write boundary: every change that this process makes to files in a folder is counted.

A boundary is a create, write, fsync, rename, unlink, mkdir, rmdir or chmod, by Python or by the two compiled writers
that the harness uses (safetensors, tokenizers). The process is killed before the operation, or, for a write, after
half of it.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Faults:
    """Counts boundaries, and dies at one of them.

    Attributes:
        folder: only changes inside of it count.
        die_at: number of the boundary to die at; None to count only.
        torn: half of that boundary's write still happens.
        seen: operation and path of every boundary so far.
    """

    folder: Path
    die_at: int | None = None
    torn: bool = False
    seen: list[tuple[str, str]] = field(default_factory=list)

    def boundary(self, operation, path):
        """Counts a boundary. True if the process must die there after half of the write."""
        if not self._inside(path):
            return False
        number = len(self.seen)
        self.seen.append((operation, os.path.relpath(path, self.folder)))
        if number != self.die_at:
            return False
        if self.torn:
            return True
        die()

    def _inside(self, path):
        return os.path.abspath(path).startswith(str(self.folder) + os.sep)

    def install(self):
        """Watches this process from now on, for good."""
        for name in ("replace", "rename"):
            setattr(os, name, self._two_paths(name, getattr(os, name)))
        for name in ("mkdir", "rmdir", "unlink", "remove", "chmod"):
            setattr(os, name, self._one_path(name, getattr(os, name)))
        os.open = self._os_open(os.open)
        os.write = self._os_write(os.write)
        os.fsync = self._os_fsync(os.fsync)
        opened = self._file_open(io.open)
        io.open = builtins.open = opened
        self._compiled()

    def _one_path(self, name, real):
        def call(path, *args, dir_fd=None, **kwargs):
            self.boundary(name, _at(path, dir_fd))
            return real(path, *args, **kwargs, **({} if dir_fd is None else {"dir_fd": dir_fd}))

        return call

    def _two_paths(self, name, real):
        def call(source, target, **kwargs):
            self.boundary(name, _at(target))
            return real(source, target, **kwargs)

        return call

    def _os_open(self, real):
        def call(path, flags, mode=0o777, *, dir_fd=None):
            if flags & os.O_CREAT and not os.path.exists(_at(path, dir_fd)):
                self.boundary("create", _at(path, dir_fd))
            return real(path, flags, mode, dir_fd=dir_fd)

        return call

    def _os_write(self, real):
        def call(handle, data):
            if self.boundary("write", _at(handle)):
                real(handle, memoryview(data)[: len(data) // 2])
                die()
            return real(handle, data)

        return call

    def _os_fsync(self, real):
        def call(handle):
            self.boundary("fsync", _at(handle))
            return real(handle)

        return call

    def _file_open(self, real):
        faults = self

        class Raw(io.FileIO):
            def write(self, data):
                if faults.boundary("write", _at(self.fileno())):
                    super().write(memoryview(data)[: len(data) // 2])
                    die()
                return super().write(data)

        def call(
            file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None
        ):
            plain = not set(mode) & set("wax+") or not faults._inside(_at(file))
            if plain or opener is not None:
                return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
            if not isinstance(file, int) and not os.path.exists(file):
                faults.boundary("create", _at(file))
            raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd)
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

        return call

    def _compiled(self):
        import safetensors.torch
        from transformers import PreTrainedTokenizerFast

        safetensors.torch.serialize_file = self._whole_file(
            safetensors.torch.serialize_file, lambda args, kwargs: kwargs.get("filename") or args[1]
        )
        PreTrainedTokenizerFast._save_pretrained = self._whole_file(
            PreTrainedTokenizerFast._save_pretrained,
            lambda args, kwargs: os.path.join(kwargs.get("save_directory") or args[1], "tokenizer.json"),
        )

    def _whole_file(self, real, path_of):
        def call(*args, **kwargs):
            path = path_of(args, kwargs)
            torn = self.boundary("write", _at(path))
            result = real(*args, **kwargs)
            if torn:
                os.truncate(path, os.path.getsize(path) // 2)
                die()
            return result

        return call


def die():
    """As a lost node or the OOM killer would have it: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def _at(path, dir_fd=None):
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    if dir_fd is not None:
        return os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fspath(path))
    return os.fspath(path)
