"""This project's server in Ray Serve: deploy/ray_app.py, one replica with all cores."""

import sys
import time

from ray import serve as ray_serve

from deploy.ray_app import Arguments, app
from serve.engine.processor import usable_cores

from .ray_cluster import begin

if __name__ == "__main__":
    begin(int(sys.argv[1]))
    ray_serve.run(app(Arguments(cpus=usable_cores(), max_replicas=1)))
    while True:
        time.sleep(3600)
