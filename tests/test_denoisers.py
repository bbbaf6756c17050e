"""Denoisers with a loss: each calls its model as its pipeline does, and its loss is the one the model was trained on."""

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_denoisers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, EulerDiscreteScheduler
from torch import Tensor

from unlearn_export.base import load_base
from unlearn_export.denoisers import Conditions, Denoiser, denoiser_of
from unlearn_export.errors import UsageError

PROMPTS = ["a photo of pizza", "the clown of a car"]
EVERY = list(tiny_denoisers.CASES)
SEATS = [
    *(("sd", "text_encoder"), ("sd-v", "text_encoder"), ("lcm", "text_encoder")),
    *(("sdxl", "text_encoder"), ("sdxl", "text_encoder_2")),
    *(("sd3", "text_encoder"), ("sd3", "text_encoder_2"), ("sd3", "text_encoder_3")),
    *(("flux-dev", "text_encoder"), ("flux-dev", "text_encoder_2"), ("flux-schnell", "text_encoder_2")),
    *(("pixart-alpha", "text_encoder"), ("pixart-sigma", "text_encoder"), ("sana", "text_encoder")),
    *(("wan", "text_encoder"), ("wan-two", "text_encoder"), ("wan-tokens", "text_encoder")),
]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {name: tiny_denoisers.built(name, tmp_path_factory.mktemp(name)) for name in EVERY}


@pytest.fixture
def denoiser(request: pytest.FixtureRequest, pipelines: dict[str, Any]) -> Denoiser:
    return of(pipelines, request.param)


def of(pipelines: dict[str, Any], name: str) -> Denoiser:
    case = tiny_denoisers.CASES[name]
    return denoiser_of(pipelines[name], side=case.side, guidance=case.guidance)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(denoiser: Denoiser, n: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """→ latents, noise and times."""
    g = seeded(3)
    return *(torch.randn(n, *denoiser.latent_shape, generator=g) for _ in range(2)), denoiser.times(n, g)


def by_hand(denoiser: Denoiser, x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """→ z_t and the true answer, from the papers' formulas alone."""
    wide = (-1, *[1] * (x.ndim - 1))
    kind = type(denoiser).__name__
    if kind == "Flow":
        sigma = (t / 1000).view(wide)
        return (1 - sigma) * x + sigma * noise, noise - x
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = (1 - betas).cumprod(0)[t].view(wide)
    answer = noise if kind == "Epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * x
    return kept.sqrt() * x + (1 - kept).sqrt() * noise, answer


@pytest.mark.parametrize("denoiser", EVERY, indirect=True)
def test_the_loss_is_the_papers(denoiser: Denoiser) -> None:
    x, noise, t = drawn(denoiser)
    conditions = denoiser.encode(PROMPTS)
    z, answer = by_hand(denoiser, x, noise, t)
    said = denoiser.predict(z, t, conditions)
    expected = float(((said - answer) ** 2).mean())
    assert float(denoiser.loss(x, noise, t, conditions)) == pytest.approx(expected, rel=1e-5)
    other = denoiser.encode(list(reversed(PROMPTS)))
    assert float(denoiser.loss(x, noise, t, other)) != expected  # the text matters


@pytest.mark.parametrize("denoiser", ["sd", "sd-v", "sd3"], indirect=True)
def test_the_true_answer_leads_the_pipelines_own_sampler_to_the_picture(denoiser: Denoiser) -> None:
    scheduler = copy.deepcopy(denoiser.pipeline.scheduler)
    scheduler.set_timesteps(5)
    x, noise, _ = drawn(denoiser, 1)
    t = scheduler.timesteps[2]
    seen: dict[str, Tensor] = {}

    class Oracle(type(denoiser)):  # type: ignore[misc]
        def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
            seen["z"], seen["answer"] = z, by_hand(denoiser, x, noise, t)[1]
            return seen["answer"]

    oracle = Oracle(denoiser.pipeline, denoiser.wiring, denoiser.side, denoiser.guidance)
    assert float(oracle.loss(x, noise, t[None], {})) < 1e-10
    assert float(oracle.loss(x, -noise, t[None], {})) > 1  # another noise has another answer
    oracle.loss(x, noise, t[None], {})
    if type(denoiser).__name__ == "Flow":
        after, _ = by_hand(denoiser, x, noise, scheduler.timesteps[3][None])
        got = scheduler.step(seen["answer"], t, seen["z"]).prev_sample
    else:
        after, got = x, scheduler.step(seen["answer"], t, seen["z"]).pred_original_sample
    assert torch.allclose(got, after, atol=1e-4)
    assert not torch.allclose(seen["z"], after, atol=1e-1)


def spied(model: torch.nn.Module, calls: list[tuple[dict[str, Tensor], Tensor]]) -> Any:
    """Hook: each call's tensors by argument name, flat, and its answer."""
    names = inspect.signature(model.forward)

    def hook(_: Any, args: Any, kwargs: Any, out: Any) -> None:
        given = names.bind(*args, **kwargs).arguments
        flat = given | (given.get("added_cond_kwargs") or {})
        calls.append(({n: v.detach().clone() for n, v in flat.items() if isinstance(v, Tensor)}, out[0].detach()))

    return model.register_forward_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("denoiser", EVERY, indirect=True)
def test_the_model_is_called_as_the_pipeline_calls_it(denoiser: Denoiser) -> None:
    """Time scale, packing, masks and every added condition, at two steps of the pipeline's own."""
    pipe = denoiser.pipeline
    models = [m for n in ("unet", "transformer", "transformer_2") if (m := getattr(pipe, n, None)) is not None]
    theirs: list[Any] = []
    ours: list[Any] = []
    hooks = [spied(model, theirs) for model in models]
    denoiser.sample(PROMPTS, steps=2, generator=seeded())
    times = pipe.scheduler.timesteps
    for hook in hooks:
        hook.remove()
    hooks = [spied(model, ours) for model in models]
    conditions = denoiser.encode(PROMPTS)
    for (given, _), t in zip(theirs, times, strict=True):
        z = given.get("hidden_states", given.get("sample"))
        if z.ndim == 3:
            z = pipe._unpack_latents(z, denoiser.side, denoiser.side, pipe.vae_scale_factor)
        denoiser.predict(z, t.expand(len(z)), conditions)
    for hook in hooks:
        hook.remove()
    assert len(ours) == len(theirs) == 2
    for (mine, answer), (given, expected) in zip(ours, theirs, strict=True):
        assert mine.keys() == given.keys()
        for name, value in given.items():
            assert mine[name].shape == value.shape or name == "timestep", name
            assert torch.equal(*torch.broadcast_tensors(mine[name].double(), value.double())), name
        assert torch.allclose(answer, expected, atol=1e-6)
    assert not torch.allclose(theirs[0][1], theirs[1][1], atol=1e-6)  # the comparison can fail


@pytest.mark.parametrize("denoiser", EVERY, indirect=True)
def test_latents_are_what_the_pipeline_decodes_back(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline, led to our latents, hands its VAE what the VAE made of the pixels."""

    class DoneError(Exception):
        pass

    pipe, side = copy.copy(denoiser.pipeline), denoiser.side
    pixels = torch.rand(2, 3, side, side, generator=seeded()) * 2 - 1
    z = denoiser.latents(pixels)
    assert z.shape == (2, *denoiser.latent_shape)
    coded = pipe.vae.encode(pixels[:, :, None] if z.ndim == 5 else pixels)
    raw = coded.latent if hasattr(coded, "latent") else coded.latent_dist.mode()
    assert not torch.allclose(z, raw, atol=1e-3)  # they are scaled
    packed = pipe._pack_latents(z, *z.shape) if hasattr(pipe, "_pack_latents") else z
    seen: list[Tensor] = []

    def decode(latents: Tensor, **_: Any) -> None:
        seen.append(latents)
        raise DoneError

    monkeypatch.setattr(pipe.vae, "decode", decode)
    monkeypatch.setattr(pipe.scheduler, "step", lambda *_, **__: (packed, packed))
    options = {"num_frames": 1, "use_resolution_binning": False}
    taken = {n: v for n, v in options.items() if n in inspect.signature(pipe.__call__).parameters}
    with pytest.raises(DoneError):
        pipe(PROMPTS, height=side, width=side, num_inference_steps=1, guidance_scale=1.0, **taken)
    assert torch.allclose(seen[0], raw, atol=1e-5)


@pytest.mark.parametrize(("denoiser", "seat"), SEATS, indirect=["denoiser"])
def test_gradients_reach_the_encoder_of_the_seat_and_no_other(denoiser: Denoiser, seat: str) -> None:
    encoder = copy.deepcopy(getattr(denoiser.pipeline, seat)).requires_grad_(True)
    x, noise, t = drawn(denoiser)
    assert not any(state.requires_grad for state in denoiser.encode(PROMPTS).values())
    own = float(denoiser.loss(x, noise, t, denoiser.encode(PROMPTS)))
    loss = denoiser.loss(x, noise, t, denoiser.encode(PROMPTS, {seat: encoder}))
    # the same weights in the seat; attention sums in another order where gradients are wanted, on some processors
    assert float(loss.detach()) == pytest.approx(own, rel=1e-6)
    loss.backward()
    reached = [p for p in encoder.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert len(reached) > len(list(encoder.parameters())) / 3  # the last layer of SDXL's and SD3's is not read
    parts = [part for part in denoiser.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert all(p.grad is None for part in parts for p in part.parameters())


@pytest.mark.parametrize(("denoiser", "seat"), SEATS, indirect=["denoiser"])
def test_ascent_raises_the_loss_and_descent_lowers_it(denoiser: Denoiser, seat: str) -> None:
    latents = denoiser.sample([PROMPTS[0]] * 2, steps=2, generator=seeded())
    t, noise = denoiser.spread(2), torch.randn(latents.shape, generator=seeded(1))

    def after(sign: int, steps: int = 4) -> float:
        encoder = copy.deepcopy(getattr(denoiser.pipeline, seat)).requires_grad_(True)
        optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0)
        for _ in range(steps):
            loss = denoiser.loss(latents, noise, t, denoiser.encode([PROMPTS[0]], {seat: encoder}))
            optimizer.zero_grad()
            (-sign * loss).backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 0.2)
            optimizer.step()
        with torch.no_grad():
            return float(denoiser.loss(latents, noise, t, denoiser.encode([PROMPTS[0]], {seat: encoder})))

    before = after(1, steps=0)
    assert after(1) > before > after(-1)


@pytest.mark.parametrize("denoiser", EVERY, indirect=True)
def test_the_pipeline_stays_as_it_was(denoiser: Denoiser) -> None:
    pipe = denoiser.pipeline

    def state() -> tuple[Any, ...]:
        parts = {n: p for n, p in pipe.components.items() if isinstance(p, torch.nn.Module)}
        weights = {n: {k: v.clone() for k, v in p.state_dict().items()} for n, p in parts.items()}
        return {n: id(p) for n, p in pipe.components.items()}, dict(pipe.config), weights

    seats, config, weights = state()
    edited = {seat: copy.deepcopy(getattr(pipe, seat)) for seat in denoiser.seats}
    for encoder in edited.values():
        for parameter in encoder.parameters():
            parameter.data.mul_(1.5)
    x, noise, t = drawn(denoiser)
    assert denoiser.loss(x, noise, t, denoiser.encode(PROMPTS, edited)) != denoiser.loss(
        x, noise, t, denoiser.encode(PROMPTS)
    )
    denoiser.sample(PROMPTS[:1], steps=2, generator=seeded())
    after = state()
    assert (seats, config) == after[:2]
    assert all(torch.equal(v, after[2][n][k]) for n, part in weights.items() for k, v in part.items())


@pytest.mark.parametrize("denoiser", EVERY, indirect=True)
def test_times_are_the_generators_and_inside_the_schedule(denoiser: Denoiser) -> None:
    times = denoiser.times(400, seeded(4))
    assert torch.equal(times, denoiser.times(400, seeded(4))) and not torch.equal(times, denoiser.times(400, seeded(5)))
    assert times.min() >= 0 and times.max() < 1000
    even = denoiser.spread(16)
    assert len(even.unique()) == 16 and even.min() >= 0 and even.max() < 1000
    assert float(times.float().mean()) == pytest.approx(float(denoiser.spread(400).float().mean()), rel=0.1)


@pytest.mark.parametrize("denoiser", ["sd3", "flux-dev", "sana", "wan"], indirect=True)
def test_flow_times_are_spaced_as_the_sampler_steps(denoiser: Denoiser) -> None:
    """At an even share u of the way, the sampler's sigma is the one that times are drawn around."""
    denoiser.sample(PROMPTS[:1], steps=100, generator=seeded())
    sampler = denoiser.pipeline.scheduler.timesteps.float()
    even = denoiser.spread(100).flip(0)
    assert float((sampler - even).abs().max()) < 25
    assert float((sampler - torch.linspace(1000, 0, 100)).abs().max()) > 50  # unshifted times are not


def test_wans_two_models_each_answer_for_their_times(pipelines: dict[str, Any]) -> None:
    denoiser = of(pipelines, "wan-two")
    calls: list[list[Any]] = [[], []]
    stages = (denoiser.pipeline.transformer, denoiser.pipeline.transformer_2)
    hooks = [spied(model, seen) for model, seen in zip(stages, calls, strict=True)]
    x, t = drawn(denoiser, 4)[0], torch.tensor([900.0, 100.0, 875.0, 874.0])
    conditions = denoiser.encode(PROMPTS * 2)
    together = denoiser.predict(x, t, conditions)
    for hook in hooks:
        hook.remove()
    assert [seen[0][0]["timestep"].tolist() for seen in calls] == [[900.0, 875.0], [100.0, 874.0]]
    for i in range(4):
        alone = denoiser.predict(x[i : i + 1], t[i : i + 1], {n: c[i : i + 1] for n, c in conditions.items()})
        assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_one_text_serves_every_row(pipelines: dict[str, Any]) -> None:
    denoiser = of(pipelines, "sd3")
    x, noise, t = drawn(denoiser)
    one, two = (denoiser.loss(x, noise, t, denoiser.encode(p)) for p in ([""], ["", ""]))
    assert float(one) == pytest.approx(float(two), rel=1e-6)


def test_texts_are_encoded_as_the_call_does_and_not_as_encode_prompt_would_alone(pipelines: dict[str, Any]) -> None:
    """Wan's length of 512 and Sana's instruction are the call's defaults only."""
    states = of(pipelines, "wan").encode(PROMPTS)["prompt_embeds"]
    assert states.shape[1] == 512
    sana = of(pipelines, "sana")
    alone = sana.pipeline.encode_prompt(PROMPTS, False)[0]
    assert not torch.allclose(alone, sana.encode(PROMPTS)["prompt_embeds"], atol=1e-2)


def test_the_demo_base_s_loss_is_the_papers() -> None:
    base = load_base("demo")
    denoiser = denoiser_of(base.pipeline, guidance=base.guidance)
    prompts = ["a picture of a pizza", "a picture of a clown"]
    g = seeded()
    latents, noise = (torch.randn(2, *denoiser.latent_shape, generator=g) for _ in range(2))
    t = denoiser.times(2, seeded(1))
    assert torch.equal(t, torch.randint(1000, (2,), generator=seeded(1)))
    schedule = DDPMScheduler.from_config(base.pipeline.scheduler.config)  # v-prediction, step by step
    noisy, target = schedule.add_noise(latents, noise, t), schedule.get_velocity(latents, noise, t)
    with torch.no_grad():
        answer = base.pipeline.unet(noisy, t, base.encoder(base.tokens(prompts))[0]).sample
        loss = float(denoiser.loss(latents, noise, t, denoiser.encode(prompts)))
    assert loss == pytest.approx(float((answer - target).square().mean()), rel=1e-6)


def test_a_pipeline_without_a_known_loss_is_refused_in_one_line(tmp_path: Path) -> None:
    video = tiny.animatediff(tiny.tokenizer(tmp_path), tiny.encoder())
    with pytest.raises(UsageError, match="AnimateDiffPipeline.*StableDiffusionXLPipeline.*WanPipeline") as refusal:
        denoiser_of(video)
    assert "\n" not in str(refusal.value)
    sd = tiny_denoisers.built("sd", tmp_path / "sd")
    sd.scheduler = DDIMScheduler(prediction_type="sample")
    with pytest.raises(UsageError, match="predicts 'sample'.*epsilon"):
        denoiser_of(sd)
    for unknown in (EDMEulerScheduler(), EulerDiscreteScheduler(timestep_type="continuous")):
        sd.scheduler = unknown
        with pytest.raises(UsageError, match=type(unknown).__name__):
            denoiser_of(sd)


@pytest.mark.parametrize("name", ["sdxl", "lcm", "flux-dev", "pixart-alpha", "wan-two"])
def test_a_denoiser_in_half_precision_takes_an_encoder_in_full(name: str, tmp_path: Path) -> None:
    denoiser = denoiser_of(tiny_denoisers.built(name, tmp_path), side=tiny_denoisers.CASES[name].side)
    x, noise, t = drawn(denoiser)
    full = float(denoiser.loss(x, noise, t, denoiser.encode(PROMPTS)))
    for part in ("unet", "transformer", "transformer_2"):
        if getattr(denoiser.pipeline, part, None) is not None:
            getattr(denoiser.pipeline, part).to(torch.bfloat16)
    encoder = copy.deepcopy(denoiser.pipeline.text_encoder).requires_grad_(True)
    loss = denoiser.loss(x, noise, t, denoiser.encode(PROMPTS, {"text_encoder": encoder}))
    loss.backward()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(full, rel=0.02)
    assert float(loss.detach()) != full  # it was cast
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())


def test_a_seat_that_the_pipeline_lacks_is_refused(pipelines: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no text_encoder_2: its encoders are text_encoder"):
        of(pipelines, "sd").encode(PROMPTS, {"text_encoder_2": tiny.encoder()})
