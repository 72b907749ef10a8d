"""`dsd-infer`: a reference and a prompt -> picture. One (image=, prompt=), or a whole set of jobs (jobs=...)."""

from dsd.infer.settings import InferSettings
from dsd.runs.command import command

main = command("infer", InferSettings, "dsd.infer.stage:run")

if __name__ == "__main__":
    main()
