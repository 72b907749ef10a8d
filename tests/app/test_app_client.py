"""dsd-app by its API, with gradio_client against a running server."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from app.conftest import serving, settings_in
from servers import openai_says, serve

ROOT = Path(__file__).parents[2]
gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture(scope="module")
def client(served):
    return gradio_client.Client(served.address, verbose=False)


def test_the_example_of_the_docs_draws(served, monkeypatch, capsys) -> None:
    page = (ROOT / "docs" / "app.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(ROOT)
    assert "http://127.0.0.1:7860" in example
    exec(compile(example.replace("http://127.0.0.1:7860", served.address), "docs/app.md", "exec"), {})
    path, caption = capsys.readouterr().out.strip().splitlines()[-1].split(" ", 1)
    assert caption.startswith("seed 3: a white tall critter")
    told = settings_in(Path(path))
    assert (told["seed"], told["image_guidance_scale"], told["adapter"]) == (3, 1.5, "canvas")


def test_every_documented_endpoint_is_there(client) -> None:
    named = set(client.view_api(return_format="dict", print_info=False)["named_endpoints"])
    assert named == {"/draw", "/stop", "/sweep", "/compare", "/enhance", "/load_settings", "/adapters"}
    page = (ROOT / "docs" / "app.md").read_text()
    assert {name for name in named if f"`{name}`" in page} == named
    assert client.predict(api_name="/adapters")[0] == "canvas"


def test_several_prompts_and_pictures(client, reference) -> None:
    pictures, redrawn, status = client.predict(
        reference=gradio_client.handle_file(reference), prompt="a critter, beach\na critter, city", pictures=2, seed=4,
        api_name="/draw",
    )  # fmt: skip
    assert [settings_in(Path(one["image"]))["seed"] for one in pictures] == [4, 5, 4, 5]
    assert len(redrawn) == 4
    assert "4 of 4 pictures" in status


def test_settings_come_back_from_a_drawn_picture(client, reference) -> None:
    given = {"prompt": "a critter, beach", "seed": 9, "text_guidance_scale": 2, "width": 32, "negative_prompt": "dark"}
    file = gradio_client.handle_file(reference)
    ((picture,), _, _) = client.predict(reference=file, **given, api_name="/draw")
    read = client.predict(gradio_client.handle_file(picture["image"]), api_name="/load_settings")
    assert read[:3] == ("a critter, beach", 9, "canvas")
    assert {2, 32, "dark"} <= set(read)
    with pytest.raises(gradio_client.exceptions.AppError, match="carries no settings"):
        client.predict(file, api_name="/load_settings")


def test_a_sweep_and_a_comparison(client, served, reference) -> None:
    from PIL import Image

    asked = {"reference": gradio_client.handle_file(reference), "prompt": "a critter, beach"}
    sheet, status = client.predict(**asked, image_scales="1, 2", text_scales="1", api_name="/sweep")
    assert "2 of 2 pictures" in status
    size = Image.open(sheet).size
    assert size[1] > 2 * 256 > size[0]
    loaded = served.engine.num_loaded
    sheet, status = client.predict(
        **asked, first_adapter="canvas", second_adapter="tokens", seeds=2, api_name="/compare"
    )
    assert "4 of 4 pictures" in status
    assert served.engine.num_loaded - loaded <= 2
    with pytest.raises(gradio_client.exceptions.AppError, match="both rows have the same adapter"):
        client.predict(**asked, first_adapter="canvas", second_adapter="canvas", seeds=2, api_name="/compare")


def test_bad_input_is_one_line(client, reference, not_a_picture, huge) -> None:
    file = gradio_client.handle_file
    for given, words in (
        ({"reference": file(not_a_picture), "prompt": "a"}, "notes.png: no picture that can be read"),
        ({"reference": file(huge), "prompt": "a"}, "100 megapixels"),
        ({"reference": None, "prompt": "a"}, "no reference"),
        ({"reference": file(reference), "prompt": " \n "}, "prompt is empty"),
        ({"reference": file(reference), "prompt": "a", "adapter": "foreign"}, "made for another base"),
        ({"reference": file(reference), "prompt": "a", "adapter": "/etc"}, "no such adapter here"),
        ({"reference": file(reference), "prompt": "a", "pictures": 9, "seed": -1}, "seed|minimum"),
    ):
        with pytest.raises(gradio_client.exceptions.AppError, match=words) as told:
            client.predict(**given, api_name="/draw")
        assert "Traceback" not in str(told.value)
    assert len(client.predict(reference=file(reference), prompt="a critter", api_name="/draw")[0]) == 1


def test_files_of_this_machine_are_not_read(served) -> None:
    """A request may name only uploaded files. The server gives out no other file."""
    picture = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    other = gradio_client.Client(served.address, verbose=False)
    with pytest.raises(gradio_client.exceptions.AppError):
        other.predict(reference=picture, prompt="a critter", api_name="/draw")
    assert httpx.get(f"{served.address}/gradio_api/file=/etc/passwd").status_code == 403
    assert httpx.get(served.address, headers={"Host": "evil.example"}).status_code == 400


def test_uploads_above_the_bound_are_refused(served) -> None:
    answer = httpx.post(f"{served.address}/gradio_api/upload", files={"files": ("big.png", b"x" * (6 * 2**20))})
    assert answer.status_code == 413


def test_stop_ends_this_clients_drawing_alone(served, reference) -> None:
    first, second = (gradio_client.Client(served.address, verbose=False) for _ in range(2))
    asked = {"reference": gradio_client.handle_file(reference), "prompt": "a critter"}
    long = first.submit(**asked, num_inference_steps=200, pictures=4, api_name="/draw")
    short = second.submit(**asked, api_name="/draw")
    while not any("step" in output[2] for output in long.outputs()):
        assert not long.done()
    second.predict(api_name="/stop")
    first.predict(api_name="/stop")
    assert "Stopped at step" in long.result(timeout=120)[2]
    assert "pictures" in short.result(timeout=120)[2]


def test_a_password_is_asked_for(compose_app, monkeypatch) -> None:
    monkeypatch.setenv("DSD_APP_AUTH", "ann:long-password")
    with serving(compose_app("~jobs")) as server:
        assert httpx.get(f"{server.address}/config").status_code == 401
        assert httpx.get(f"{server.address}/gradio_api/info").status_code == 401
        wrong = httpx.post(f"{server.address}/login", data={"username": "ann", "password": "guess"})
        assert wrong.status_code == 400
        client = gradio_client.Client(server.address, auth=("ann", "long-password"), verbose=False)
        assert "canvas" in client.predict(api_name="/adapters")


def test_enhance_says_what_became_of_the_prompt(compose_app, reference, monkeypatch) -> None:
    def answer(body: dict) -> tuple[int, dict]:
        seen = any(part["type"] == "image_url" for part in body["messages"][0]["content"])
        return 200, openai_says("a white critter" if seen else "a white critter on a sunny beach")

    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    asked = {"reference": gradio_client.handle_file(reference), "prompt": "beach"}
    with serve(answer) as provider:
        cfg = compose_app("~jobs", "vlm=openai", f"vlm.chat.base_url={provider.url}/v1")
        cfg.vlm.cache = f"{cfg.output_dir}/answers.sqlite"
        with serving(cfg) as server:
            client = gradio_client.Client(server.address, verbose=False)
            prompt, became = client.predict(**asked, api_name="/enhance")
            assert prompt == "a white critter on a sunny beach"
            assert "you wrote: beach" in became
            ((picture,), _, _) = client.predict(**asked | {"prompt": prompt}, api_name="/draw")
    told = settings_in(Path(picture["image"]))
    assert (told["prompt"], told["asked"]) == (prompt, "beach")


@pytest.mark.process
def test_the_command_serves_until_ctrl_c(runs, tmp_path) -> None:
    command = [sys.executable, "-m", "dsd.app", f"runs={runs}", f"output_dir={tmp_path}", "port=0", "device=cpu"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )  # fmt: skip
    try:
        assert process.stderr is not None
        address = re.search(r"http://[\w.:]+", process.stderr.readline())
        assert address
        assert "Diffusion Self-Distillation" in httpx.get(address[0]).text
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
