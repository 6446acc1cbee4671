"""An RTSP camera for tests: serves an H.264 MP4 at its own pace, without encoding it again, then ends.

    /usr/bin/python3 tests/rtsp_server.py clip.mp4 --port 8554 --path /live --repeat 6 [--sound] [--once]

With ``--sound`` the MP4 has an AAC stream too. With ``--once`` the camera is gone after its first playback.

Runs with Debian's own Python and the packages gir1.2-gst-rtsp-server-1.0 and python3-gi (they bring the
GStreamer plugins with them). Prints "ready" once it listens on 127.0.0.1; all clients share one playback.
"""

import argparse

import gi  # type: ignore[import-not-found]

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found]  # noqa: E402


class Camera(GstRtspServer.RTSPMediaFactory):  # type: ignore[misc]
    def __init__(self, file: str, repeat: int, sound: bool) -> None:
        super().__init__()
        self.files = [file] * repeat
        self.sound = sound
        self.set_shared(True)

    def do_create_element(self, url: object) -> object:
        video = "files. ! queue ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96"
        if self.sound:
            video += " files. ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97"
        pipeline = Gst.parse_launch(f"splitmuxsrc name=files {video}")
        pipeline.get_by_name("files").connect("format-location", lambda _: self.files)
        return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description="An RTSP camera for tests")
    parser.add_argument("file")
    parser.add_argument("--port", type=int, default=8554)
    parser.add_argument("--path", default="/live")
    parser.add_argument("--repeat", type=int, default=1, help="play the file this many times over")
    parser.add_argument("--sound", action="store_true", help="serve the file's AAC stream as well")
    parser.add_argument("--once", action="store_true", help="end after the first playback")
    options = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=str(options.port))
    camera, loop = Camera(options.file, options.repeat, options.sound), GLib.MainLoop()
    if options.once:
        camera.connect("media-configure", lambda _, media: media.connect("unprepared", lambda _: loop.quit()))
    server.get_mount_points().add_factory(options.path, camera)
    server.attach(None)
    print("ready", flush=True)
    loop.run()


if __name__ == "__main__":
    main()
