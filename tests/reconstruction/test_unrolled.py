"""The unrolled iteration: its equations solved directly, batches, gradients, precision, data consistency."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pass_recon.config import NetworkConfig, ReconstructorConfig, SamplerConfig
from pass_recon.physics.encoding import SenseOperator
from pass_recon.physics.fourier import fft2c
from pass_recon.reconstruction.unrolled import UnrolledReconstructor
from pass_recon.sampling.lines import acs_mask, select_lines
from pass_recon.sampling.personal import LineSampler
from pass_recon.sampling.population import PopulationLogits, draw_lines, line_probabilities, straight_through
from pass_recon.types import InputError
from tests.reconstruction.conftest import OURS, PUBLISHED, TINY, Problem, bright, problem, reconstructor

WARM = ReconstructorConfig(**{**vars(OURS), "warm_start": True})
BOTH = pytest.mark.parametrize("config", [OURS, PUBLISHED], ids=["ours", "published"])


def _encoding_matrix(coil_maps: Tensor, line_mask: Tensor) -> np.ndarray:
    """A of one slice as a matrix, from numpy's own Fourier transform."""
    ro, pe = coil_maps.shape[-2:]
    columns = []
    for pixel in np.eye(ro * pe).reshape(-1, ro, pe):
        centred = np.fft.ifftshift(coil_maps.numpy() * pixel, axes=(-2, -1))
        spectrum = np.fft.fftshift(np.fft.fft2(centred, norm="ortho"), axes=(-2, -1))
        columns.append((spectrum * line_mask.numpy()).ravel())
    return np.stack(columns, axis=1)


def _direct(network: UnrolledReconstructor, case: Problem, anomaly) -> tuple[np.ndarray, np.ndarray]:
    """The equations of the docstring, line by line, each linear system solved exactly."""
    config, shape = network.config, case.image.shape[-2:]
    matrix = _encoding_matrix(case.coil_maps[0], case.line_mask[0])
    normal, measured = matrix.conj().T @ matrix, matrix.conj().T @ case.kspace[0].numpy().ravel()
    lambda1, lambda2, rho = network.denoiser_weight.item(), network.enhancer_weight.item(), config.rho

    def solve(rhs: np.ndarray, weight: float) -> np.ndarray:
        return np.linalg.solve(normal + weight * np.eye(len(normal)), rhs)

    def tensor(x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.reshape(1, *shape).astype(np.complex64))

    def denoise(x: np.ndarray) -> np.ndarray:
        return network.denoiser(tensor(x)).numpy().ravel()

    x, u = solve(measured, lambda1), np.zeros_like(measured)
    for _ in range(config.stages):
        x = solve(measured + lambda1 * denoise(x), lambda1)
        x_global, r, guide = x, x, anomaly(tensor(x))
        for _ in range(config.inner_iterations):
            x = solve(measured + lambda1 * denoise(r) + rho * (r - u / rho), lambda1 + rho)
            enhanced = network.enhancer(tensor(r), guide).numpy().ravel()
            r = (lambda2 * enhanced + rho * x + u) / (rho + lambda2)
            u = u + rho * (x - r)
    return x.reshape(shape), x_global.reshape(shape)


@pytest.mark.parametrize("config", [OURS, PUBLISHED, WARM], ids=["ours", "published", "warm start"])
def test_the_iteration_is_the_one_of_its_equations(config):
    case = problem(batch=1, coils=3, shape=(6, 7))
    values = {**vars(config), "cg_iterations": 60, "rho": 0.7, "denoiser_weight": 0.3, "enhancer_weight": 0.4}
    network = reconstructor(ReconstructorConfig(**values))
    with torch.no_grad():
        expected, expected_global = _direct(network, case, bright)
        found, found_global = network(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
    np.testing.assert_allclose(found_global[0].numpy(), expected_global, atol=2e-4)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-4)
    assert np.abs(expected - expected_global).max() > 1e-2


def test_a_warm_start_comes_closer_with_few_iterations():
    case = problem(batch=2, coils=3, shape=(24, 30), sampled=0.1)
    settings = {**vars(OURS), "denoiser_weight": 0.02, "stages": 1, "cg_iterations": 80}
    exact = reconstructor(ReconstructorConfig(**settings))
    errors = []
    for warm in (False, True):
        quick = UnrolledReconstructor(ReconstructorConfig(**{**settings, "cg_iterations": 3, "warm_start": warm}))
        quick.load_state_dict(exact.state_dict())
        with torch.no_grad():
            arguments = (case.kspace, case.coil_maps, case.line_mask)
            errors.append(float((quick(*arguments)[1] - exact(*arguments)[1]).abs().square().sum()))
    assert errors[1] < 0.5 * errors[0]


@BOTH
def test_a_batch_is_its_slices(config):
    case, network = problem(batch=3, shape=(23, 18)), reconstructor(config)
    with torch.no_grad():
        together = network(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
        for item in range(3):
            alone = network(case.kspace[item], case.coil_maps[item], case.line_mask[item], anomaly=bright)
            for one, all_of_them in zip(alone, together, strict=True):
                assert one.shape == (23, 18)
                torch.testing.assert_close(one, all_of_them[item], rtol=1e-5, atol=1e-5)


def test_one_mask_serves_all_slices():
    case, network = problem(batch=2), reconstructor(OURS)
    mask = case.line_mask[0]
    kspace = SenseOperator(case.coil_maps, mask).forward(case.image)
    with torch.no_grad():
        shared, _ = network(kspace, case.coil_maps, mask)
        each, _ = network(kspace, case.coil_maps, mask.expand(2, -1))
    torch.testing.assert_close(shared, each)


def test_lines_outside_the_mask_are_ignored():
    case, network = problem(), reconstructor(OURS)
    filled = case.kspace + ~case.line_mask[:, None, None, :] * 7.0
    with torch.no_grad():
        expected, _ = network(case.kspace, case.coil_maps, case.line_mask)
        found, _ = network(filled, case.coil_maps, case.line_mask)
    torch.testing.assert_close(found, expected)


@BOTH
@pytest.mark.parametrize("shape", [(24, 20), (25, 19), (9, 31)])
def test_odd_and_oblong_sizes(config, shape):
    case = problem(batch=1, shape=shape)
    with torch.no_grad():
        image, _ = reconstructor(config)(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
    assert image.shape == (1, *shape)
    assert torch.isfinite(torch.view_as_real(image)).all()


@BOTH
def test_the_number_of_threads_does_not_matter(config):
    case, network = problem(batch=1, coils=8, shape=(40, 48)), reconstructor(config)
    with torch.no_grad():
        alone, _ = network(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
        torch.set_num_threads(2)
        try:
            several, _ = network(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
        finally:
            torch.set_num_threads(1)
    torch.testing.assert_close(several, alone, rtol=1e-5, atol=1e-5)


def test_without_a_detector_the_map_is_zero():
    case, network = problem(), reconstructor(OURS)
    with torch.no_grad():
        none, _ = network(case.kspace, case.coil_maps, case.line_mask)
        zero, _ = network(case.kspace, case.coil_maps, case.line_mask, anomaly=lambda x: torch.zeros(x.shape))
        some, _ = network(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
    torch.testing.assert_close(none, zero)
    assert (some - none).abs().max() > 1e-3


def test_stages_come_one_by_one_and_the_last_is_the_result():
    case, network = problem(), reconstructor(OURS)
    with torch.no_grad():
        stages = list(network.iterate(case.kspace, case.coil_maps, case.line_mask, bright))
        image, global_image = network(case.kspace, case.coil_maps, case.line_mask, bright)
    assert len(stages) == 3
    assert torch.equal(stages[-1].image, image)
    assert torch.equal(stages[-1].global_image, global_image)
    assert torch.equal(stages[1].anomaly_map, bright(stages[1].global_image))


def test_a_slice_that_has_settled_is_left_alone():
    case = problem(batch=2)
    # Nothing but zeros in the first slice: x = r from the first iteration on, while the second goes on.
    case.kspace[0] = 0
    eager = reconstructor(OURS)
    patient = UnrolledReconstructor(ReconstructorConfig(**{**vars(OURS), "tolerance": 0.0})).eval()
    patient.load_state_dict(eager.state_dict())
    with torch.no_grad():
        found, _ = eager(case.kspace, case.coil_maps, case.line_mask)
        expected, _ = patient(case.kspace, case.coil_maps, case.line_mask)
    torch.testing.assert_close(found[1], expected[1])
    large = UnrolledReconstructor(ReconstructorConfig(**{**vars(OURS), "tolerance": 1e9, "inner_iterations": 4}))
    once = UnrolledReconstructor(ReconstructorConfig(**{**vars(OURS), "tolerance": 0.0, "inner_iterations": 1}))
    for network in (large, once):
        network.load_state_dict(eager.state_dict())
    with torch.no_grad():
        stopped = next(large.iterate(case.kspace, case.coil_maps, case.line_mask))
        single = next(once.iterate(case.kspace, case.coil_maps, case.line_mask))
    torch.testing.assert_close(stopped.image, single.image)


def test_ours_scale_with_the_intensity():
    case, network = problem(), reconstructor(OURS)
    with torch.no_grad():
        image, _ = network(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
        brighter, _ = network(1e3 * case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
    torch.testing.assert_close(brighter / 1e3, image, rtol=1e-4, atol=1e-5)


def test_with_all_lines_untrained_ours_returns_the_image():
    case = problem(batch=1)
    kspace = fft2c(case.coil_maps * case.image[:, None])
    everything = torch.ones(20, dtype=torch.bool)
    with torch.no_grad():
        image, global_image = UnrolledReconstructor(OURS)(kspace, case.coil_maps, everything, anomaly=bright)
    for found, share in ((image, 2e-4), (global_image, 2e-4)):
        assert torch.linalg.vector_norm(found - case.image) < share * torch.linalg.vector_norm(case.image)


def test_acquired_lines_stay_within_the_noise():
    case = problem(batch=1, coils=8, shape=(48, 48), sampled=0.4)
    noise = 0.01 * torch.randn(case.kspace.shape, dtype=torch.complex64) * case.line_mask[:, None, None, :]
    operator, kspace = SenseOperator(case.coil_maps, case.line_mask), case.kspace + noise
    with torch.no_grad():
        image, _ = UnrolledReconstructor(OURS)(kspace, case.coil_maps, case.line_mask, anomaly=bright)
    missed = operator.forward(image) - kspace
    assert torch.linalg.vector_norm(missed) < torch.linalg.vector_norm(noise)


def test_under_autocast_physics_keeps_single_precision():
    case = problem()
    untrained, network = UnrolledReconstructor(OURS).eval(), reconstructor(OURS)
    with torch.no_grad():
        for model, tolerance in ((untrained, 1e-6), (network, 3e-2)):
            expected, _ = model(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found, _ = model(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
            assert found.dtype == torch.complex64
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_one_graph_for_the_compiler():
    case, network = problem(), reconstructor(ReconstructorConfig(**{**vars(OURS), "stages": 1}))
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad():
        expected, _ = network(case.kspace, case.coil_maps, case.line_mask, bright)
        found, _ = compiled(case.kspace, case.coil_maps, case.line_mask, bright)
    torch.testing.assert_close(found, expected)


def _gradients(network: UnrolledReconstructor, case: Problem) -> dict[str, Tensor]:
    network.zero_grad()
    image, global_image = network(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
    loss = (image - case.image).abs().square().mean() + (global_image - case.image).abs().square().mean()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def test_checkpointing_changes_memory_and_not_the_gradient():
    case, network = problem(), reconstructor(OURS)
    expected = _gradients(network, case)
    network.checkpointing = True
    found = _gradients(network, case)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=name)


def test_stage_one_trains_logits_and_reconstructor_and_not_the_detector():
    case, network = problem(shape=(24, 20)), reconstructor(OURS)
    population, acs = PopulationLogits(20, 0.2), acs_mask(20, 4)
    detector = torch.nn.Parameter(torch.tensor(1.0))
    probabilities = line_probabilities(population(20), acs, 10)
    weights = straight_through(draw_lines(probabilities), probabilities)
    kspace = fft2c(case.coil_maps * case.image[:, None])
    image, global_image = network(kspace, case.coil_maps, weights, anomaly=lambda x: detector * bright(x))
    ((image - case.image).abs().square().mean() + (global_image - case.image).abs().square().mean()).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())
    assert torch.equal(population.logits.grad[acs], torch.zeros(4))
    assert (population.logits.grad[~acs] != 0).all()
    assert detector.grad is None


def test_stage_two_trains_the_as_network_alone():
    case, network = problem(shape=(24, 20)), reconstructor(OURS).requires_grad_(False)
    personal = NetworkConfig("line_network", {"knots": 5})
    sampler, acs = LineSampler(SamplerConfig(lines=20, personal=personal, acs_fraction=0.2)), acs_mask(20, 4)
    torch.nn.init.normal_(sampler.personal.coefficients)
    kspace = fft2c(case.coil_maps * case.image[:, None])
    glimpse = SenseOperator(case.coil_maps, acs).adjoint(kspace)
    logits = sampler(glimpse, bright(glimpse))
    lines = select_lines(logits.detach(), acs, 8)
    weights = straight_through(lines, line_probabilities(logits, acs, 8))
    image, _ = network(kspace, case.coil_maps, weights, anomaly=bright)
    (image - case.image).abs().square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in sampler.personal.parameters())
    assert sampler.population.logits.grad is None
    assert all(parameter.grad is None for parameter in network.parameters())


def test_real_weights_of_zero_and_one_are_a_mask():
    case, network = problem(), reconstructor(OURS)
    with torch.no_grad():
        expected, _ = network(case.kspace, case.coil_maps, case.line_mask)
        found, _ = network(case.kspace, case.coil_maps, case.line_mask.float())
    torch.testing.assert_close(found, expected)


@BOTH
def test_weights_start_where_the_settings_say(config):
    network = UnrolledReconstructor(ReconstructorConfig(**{**vars(config), "denoiser_weight": 0.25}))
    assert network.denoiser_weight.item() == pytest.approx(0.25)
    assert network.enhancer_weight.item() == pytest.approx(config.enhancer_weight)


def test_misfits_are_named():
    case, network = problem(), UnrolledReconstructor(OURS)
    with pytest.raises(InputError, match="same coils"):
        network(case.kspace[:, :3], case.coil_maps, case.line_mask)
    with pytest.raises(InputError, match="lines"):
        network(case.kspace, case.coil_maps, case.line_mask[:, 1:])
    with pytest.raises(InputError, match=r"anomaly map has shape \(2, 24, 19\)"):
        network(case.kspace, case.coil_maps, case.line_mask, anomaly=lambda x: x.real[..., 1:])
    with pytest.raises(InputError, match="no enhancer 'none'"):
        UnrolledReconstructor(ReconstructorConfig(enhancer=NetworkConfig("none"), denoiser=NetworkConfig("unet", TINY)))


@pytest.mark.gpu
@BOTH
def test_cuda_agrees(config):
    case, network = problem(batch=2, coils=8, shape=(96, 80)), reconstructor(config)
    with torch.no_grad():
        expected, _ = network(case.kspace, case.coil_maps, case.line_mask, anomaly=bright)
        network.cuda()
        arguments = [tensor.cuda() for tensor in (case.kspace, case.coil_maps, case.line_mask)]
        found, _ = network(*arguments, anomaly=bright)
    difference = torch.linalg.vector_norm(found.cpu() - expected)
    assert difference < 1e-3 * torch.linalg.vector_norm(expected)
