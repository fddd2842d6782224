"""Deliberate mistakes, each of which the tests must catch: `python tests/mutants.py [word …]`.

A mutant replaces one string of one file of optcore in a copy of the tree and runs the tests of that
module. With words given, only the mutants of the files whose names contain one of them are run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2

# (file, where in it the search for `old` begins): [(old, new), …]
MUTANTS = {
    ("rules/momentum.py", "def sgd("): [
        ("return w - lr * z", "return w + lr * z"),
        ("return w - lr * z", "return w - lr * z.sign()"),
        ('    check_step(w, z, nonnegative={"lr": lr})\n', ""),
    ],
    ("rules/momentum.py", "def heavy_ball("): [
        ("+ beta * (w - w_prev)", "- beta * (w - w_prev)"),
        ("w - lr * z + beta", "w - (1 - beta) * lr * z + beta"),
        ("Previous(w)", "Previous(w_prev)"),
        ("w_prev = w if state", "w_prev = 0 * w if state"),
    ],
    ("rules/momentum.py", "def heavy_ball_average("): [
        ("+ (1 - beta) * z\n", "+ z\n"),
        ("= beta * v_prev + (1 - beta)", "= (1 - beta) * v_prev + beta"),
        ("v_prev = 0 if state is None", "v_prev = z if state is None"),
        ("return w - lr * v,", "return w - lr / (1 - beta) * v,"),
    ],
    ("rules/momentum.py", "def heavy_ball_sum("): [
        ("v = beta * v_prev + z\n", "v = beta * (v_prev + z)\n"),
        ("v = beta * v_prev + z\n", "v = beta * v_prev + (1 - beta) * z\n"),
        ("return w - lr * v,", "return w - lr * (z + beta * v),"),
    ],
    ("rules/momentum.py", "def nesterov("): [
        ("u_next + beta * (u_next - u)", "u_next + beta * (u_next - w)"),
        ("u_next + beta * (u_next - u)", "w + beta * (u_next - u)"),
        ("Previous(u_next)", "Previous(w)"),
        ("u = w if state is None", "u = w - lr * z if state is None"),
    ],
    ("rules/momentum.py", "def nesterov_one_line("): [
        ("w_prev - lr * z_prev", "w_prev + lr * z_prev"),
        ("(w, 0) if state", "(w, z) if state"),
        ("beta * ((w - lr * z) -", "beta * (w -"),
    ],
    ("rules/momentum.py", "def nesterov_gradient_correction("): [
        ("beta * (z - z_prev)", "(z - z_prev)"),
        (" + beta * (z - z_prev)", ""),
        ("(0, 0) if state", "(0, z) if state"),
    ],
    ("rules/momentum.py", "def nesterov_look_ahead("): [
        ("v = beta * v_prev + z", "v = v_prev + z"),
        ("w - lr * v, V", "w - lr * beta * v, V"),
    ],
    ("rules/momentum.py", "def _look_ahead_point("): [
        ("w - lr * beta * state.v", "w - lr * state.v"),
        ("w - lr * beta * state.v", "w"),
    ],
    ("rules/momentum.py", "def nesterov_two_gradients("): [
        ("VelocityAndPrevious(v, w)", "VelocityAndPrevious(v, w - lr * v)"),
        ("beta * (z - z_prev)", "beta * (z_prev - z)"),
        ("(*z, 0) if state", "(*z, *z) if state"),
    ],
    ("rules/momentum.py", "def _this_and_previous_point("): [
        ("(w, state.w)", "(state.w, w)"),
    ],
    ("rules/adaptive.py", "def adagrad("): [
        ("state.G) + z**2", "state.G) + z.abs()"),
        ("(initial if state is None", "(0.0 if state is None"),
        ("return w - lr * z", "return w + lr * z"),
        ("_root(G, eps, eps_inside)", "_root(G, eps, False)"),
    ],
    ("rules/adaptive.py", "def rmsprop("): [
        ("+ (1 - beta2) * z**2", "+ z**2"),
        ("+ (1 - beta2) * z if centered", "+ z if centered"),
        ("v - m**2 if centered", "v - m if centered"),
        ("v - m**2 if centered", "v if centered"),
        ("b = momentum * b + z", "b = momentum * b + (1 - momentum) * z"),
        ("return w - lr * b", "return w - lr * (momentum * b + z)"),
        ("eps, eps_inside)\n", "eps, False)\n"),
    ],
    ("rules/adaptive.py", "def adam("): [
        ("z + weight_decay * w", "z - weight_decay * w"),
        ("if bias_correction", "if not bias_correction"),
        ("m / (1 - beta1**t)", "m / (1 - beta1 ** (t - 1 + 1e-9))"),
        ("v / (1 - beta2**t)", "v / (1 - beta1**t)"),
    ],
    ("rules/adaptive.py", "def amsgrad("): [
        ("torch.maximum(v_max, v", "torch.maximum(v, v"),
        ('if form == "optax" else v)', "if True else v)"),
        ('m if form == "paper" else m', 'm if form != "paper" else m'),
        ('v_max / (1 - beta2**t) if form == "torch"', 'v_max if form == "torch"'),
        ("MomentsAndMax(t, m, v, v_max)", "MomentsAndMax(t, m, v_max, v_max)"),
    ],
    ("rules/adaptive.py", "def adamw("): [
        ("+ weight_decay * w)", "+ lr * weight_decay * w)"),
        ("+ weight_decay * w)", "- weight_decay * w)"),
        ("_root(v_hat, eps, eps_inside)", "_root(v, eps, eps_inside)"),
        ("_root(v_hat, eps, eps_inside)", "_root(v_hat, eps, not eps_inside)"),
    ],
    ("rules/adaptive.py", "def lion("): [
        ("c.sign()", "c"),
        ("c = beta1 * m + (1 - beta1) * z", "c = beta2 * m + (1 - beta2) * z"),
        ("Average(beta2 * m + (1 - beta2) * z)", "Average(c)"),
        ("+ weight_decay * w)", ")"),
    ],
    ("rules/adaptive.py", "def _moments("): [
        ("t + 1, beta1", "t, beta1"),
        ("(1 - beta1) * z, beta2", "z, beta2"),
        ("(1 - beta2) * z**2", "z**2"),
        ("(1 - beta2) * z**2", "(1 - beta2) * z"),
    ],
    ("optim/adaptive.py", "class _AdaptiveOptimizer"): [
        ('and key != "step" and state_dtype(p) is not p.dtype', "and False"),
        ("torch.is_tensor(value) and key", "key"),
        ("restore, prepend=True", "restore, prepend=False"),
        ('lr = _as_tensor(group["lr"], p)', 'lr = _scalar(group["lr"])'),
        ("w.clone() if group", "w if group"),
        ('in loaded["state"].get', 'in state_dict["state"].get'),
        ("if z.is_sparse and self.name", "if False"),
        ("if wants_kernel else None", ""),
        ("kernel_list(p, z, buffers)", "kernel_list(p, z, ())"),
        ("dtype=state_dtype(p),", "dtype=p.dtype,"),
        ("self._initial(group, p),", "0.0,"),
        ('state["step"] += 1', 'state["step"] += 2'),
        ('-z if group["maximize"]', 'z if group["maximize"]'),
        ("w.copy_(w_next)", "w.copy_(w)"),
        ("target.copy_(value)", "pass"),
        ("state[key] = value\n            else", "pass\n            else"),
        ("z = p.grad.to(state_dtype(p))", "z = p.grad.to(state_dtype(p)).neg_().neg_().add_(1e-3)"),
        (
            "(torch.view_as_real(x) for x in",
            "(torch.view_as_real(x.conj().resolve_conj()) for x in",
        ),
        ('device="cpu"), alpha=1)', 'device="cpu"), alpha=0)'),
    ],
    ("optim/adaptive.py", "class Adagrad"): [
        ("self._state_of(group, p, self._keys(group))", "pass"),
        ("complex(value, value)", "value"),
        (".coalesce()  #", "  #"),
        ("p[at], buffers[0][at] = w, G", "p[at] = w"),
        ('(t - 1) * group["lr_decay"]', 't * group["lr_decay"]'),
        ('z = z + group["weight_decay"] * w', 'z = z - group["weight_decay"] * w'),
        ('lr_decay=group["lr_decay"],', "lr_decay=0.0,"),
        ('maximize=group["maximize"],', "maximize=False,"),
        ("increment_version([*params, *sums])", "set_multithreading_enabled(True)"),
    ],
    ("optim/adaptive.py", "class RMSprop"): [
        ('group["alpha"] / rest)', 'group["alpha"])'),
        ('float(group["lr"]) / rest**0.5', 'float(group["lr"]) / rest'),
        ('group["eps"] / rest**0.5', 'group["eps"]'),
        ("torch._foreach_mul_(v, rest)", "pass"),
        ("increment_version(params)", "set_multithreading_enabled(True)"),
        ("torch._foreach_neg(grads)", "grads"),
        ('alpha=group["weight_decay"])', 'alpha=-group["weight_decay"])'),
        ("(m, grads, 1 - alpha)", "(m, grads, alpha)"),
        ("(v, m, m, -1)", "(v, m, m, 1)"),
        ("torch._foreach_add_(params, b, alpha=-lr)", "torch._foreach_add_(params, b, alpha=lr)"),
        ('named.get("grad_avg", 0), named', "0, named"),
        ('beta2=group["alpha"]', 'beta2=1 - group["alpha"]'),
    ],
    ("optim/adaptive.py", "class Adam("): [
        ("w = (1 - lr * decay) * w", "w = (1 - decay) * w"),
        ("z = z + decay * w", "z = z - decay * w"),
        ("MomentsAndMax(t - 1, *state)", "MomentsAndMax(t, *state)"),
        ("Moments(t - 1, *state)", "Moments(t, *state)"),
        ('before, form="torch"', 'before, form="optax"'),
        ("torch._fused_adamw_ if _is", "torch._fused_adam_ if _is"),
        ('amsgrad=group["amsgrad"],\n            maximize', "amsgrad=False,\n            maximize"),
        (
            'maximize=group["maximize"],\n        )\n        #',
            "maximize=False,\n        )\n        #",
        ),
        ('eps=group["eps"],\n            amsgrad', "eps=0.0,\n            amsgrad"),
    ],
    ("optim/adaptive.py", "class AdamW("): [
        ("decoupled_weight_decay=True,", "decoupled_weight_decay=False,"),
        ('group["decoupled_weight_decay"] = True', "pass"),
    ],
    ("optim/adaptive.py", "def _dtype_of_step("): [
        (
            "torch.float64 if torch.get_default_dtype() is torch.float64 else torch.float32",
            "torch.get_default_dtype()",
        ),
    ],
    ("optim/adaptive.py", "def state_dtype("): [
        ("torch.float32 if p.dtype in", "p.dtype if p.dtype in"),
        ("return x.squeeze() if", "return x if"),
        ('"decoupled_weight_decay", True', '"decoupled_weight_decay", False'),
        ("beta.numel() != 1", "False"),
        ("if len({isinstance", "if 0 * len({isinstance"),
        ("not 0 <= beta < 1", "not 0 <= beta <= 1"),
    ],
    ("rules/checks.py", "def check_step("): [
        ("if w.shape != z.shape:", "if False:"),
        ("0 <= value < math.inf", "0 <= value"),
        ("0 <= value < 1", "0 <= value <= 1"),
    ],
    ("rules/muon.py", "def orthogonalize("): [
        ("X = a * X + (b * A + c * (A @ A)) @ X", "X = a * X + (b * A + c * A) @ X"),
        ("X = X.mT if G.shape[-2] > G.shape[-1] else X\n    for", "X = X.mT\n    for"),
        ("X = normalized(G, eps)", "X = normalized(G)"),
        ("0 <= eps < math.inf", "0 <= eps"),
    ],
    ("rules/muon.py", "def normalized("): [
        ("torch.ldexp(G, -exponent)", "G"),
        ("X / torch.where(norm == 0, 1, norm)", "X / norm"),
        ("norm = torch.maximum(norm, floor)", "norm = norm + floor"),
    ],
    ("rules/muon.py", "def coefficients_of("): [
        ("[triples] * _positive(steps)", "[triples] * 5"),
        ("for a, b, c in", "for a, c, b in"),
    ],
    ("rules/muon.py", "def polar_express_coefficients("): [
        ("max(low, cushion * high)", "low"),
        ("2 / (_value(quintic, low) + _value(quintic, high)) * quintic", "quintic"),
        ("high = 2 - low", "high = 1 / low"),
    ],
    ("rules/muon.py", "def muon("): [
        ("1 - momentum if average", "1 if average"),
        ("D = share * z + momentum * B", "D = z + momentum * B"),
        ("if nesterov else B", "if not nesterov else B"),
        ("- lr * weight_decay * w", "- lr * scale(w.shape, adjust) * weight_decay * w"),
        ("* O, Buffer(B)", "* O, Buffer(D)"),
    ],
    ("rules/muon.py", "def scale("): [
        ("max(1, out / into)", "max(1, into / out)"),
        ("max(out, into)", "min(out, into)"),
        ("return math.sqrt(out / into)", "return math.sqrt(into / out)"),
    ],
    ("rules/muon.py", "def _svd("): [
        ("(U * kept.unsqueeze(-2)) @ Vh", "U @ Vh"),
    ],
    ("rules/muon.py", "def _minimax_quintic("): [
        ("[1, -1, 1, -1]", "[1, 1, 1, -1]"),
        ("5 * c, 3 * b, a", "5 * c, 3 * a, b"),
    ],
    ("optim/muon.py", "def for_model("): [
        ("if p.requires_grad:", "if True:"),
        ("and id(p) not in kept", ""),
        ("p.ndim > 2 and id(p) in kernels", "p.ndim > 2"),
    ],
    ("optim/muon.py", "def add_param_group("): [
        ("{**ADAMW, **param_group}", "{**param_group, **ADAMW}"),
    ],
    ("optim/muon.py", "def _update_alike("): [
        ("_iteration_dtype(group, first)", "torch.bfloat16"),
        ('if not group["eps"] or dtype is torch.float16', "if False"),
        ('if not group["eps"] or dtype is torch.float16', 'if not group["eps"]'),
        ("clamp_(min=group", "add_(group"),
        ("rules.scale(shape,", "rules.scale(first.shape[-2:],"),
        ("params[start : start + size]", "params[start : start + 1]"),
        ("_orthogonalized(group, X, room)", "_orthogonalized(group, X.flip(0), room)"),
        ("norm(D, dim=(1, 2), keepdim=True)", "norm(D, dim=2, keepdim=True).amax(1, True)"),
        ("torch._foreach_norm(X.copy_(D).unbind())", "torch._foreach_norm(X.copy_(D).unbind(), 1)"),
        ("torch._foreach_norm(X.copy_(D).unbind())", "torch._foreach_norm(D.unbind())"),
        ("size * entries, state_dtype(first)", "size * entries, dtype"),
        ("entries + room_of(shape)", "room_of(shape)"),
        ("narrow[used:]", "narrow"),
    ],
    ("optim/muon.py", "def _direction("): [
        (".lerp_(z, 1 - mu)", ".mul_(mu).add_(z)"),
        ("torch.lerp(z, B, mu, out=room)", "torch.lerp(B, z, mu, out=room)"),
        ("torch.lerp(z, B, mu, out=room)", "room.copy_(z)"),
        ("room.copy_(B)", "B"),
        ("torch.zeros_like(z, memory_format=torch.preserve_format)", "z"),
    ],
    ("optim/muon.py", "def gram_iteration("): [
        (
            "_symmetric(product, last, _symmetric(product, R, last, out=S), out=R)",
            "R.copy_(R @ last)",
        ),
        ("_blocks(steps, X.dtype)", "[steps]"),
        ("Q, S = _symmetric(product, last, Q, out=S), Q", "Q = last"),
        (
            "Q, S = _symmetric(product, last, Q, out=S), Q",
            "Q = _symmetric(product, last, Q, out=S)",
        ),
        ("beta=b_k, alpha=c_k", "beta=b, alpha=c"),
        ("R, R, R, out=P)", "R, R, R, out=S)"),
        ("add_(a)", "add_(1)"),
        ("add_(a_k)", "add_(a)"),
        ("beta=a, out=Y", "beta=1, out=Y"),
        ("(X.mT, X) if tall", "(X, X.mT) if tall"),
        ("(X, Q.mT) if tall", "(X, Q) if tall"),
        ("X, Y, Z = Y, Z, Y", "X = Y"),
        ("X if X.ndim == 3 else X[None]", "X"),
    ],
    ("optim/muon.py", "def _taken("): [
        ("or len(memory[key]) < entries", ""),
        ("key = (use, dtype, device)", "key = (use, device)"),
    ],
    ("optim/muon.py", "def _shaped("): [
        ("x if x.shape == shape else x.reshape(shape)", "x"),
    ],
    ("optim/muon.py", "def room_of("): [
        ("2 * m * n + 4 * m * m", "2 * m * n"),
    ],
    ("optim/muon.py", "def _symmetric("): [
        ("m < 2 * PANEL", "True"),
        ("product(*added, A, B, out=out)", "product(A, B, out=out)"),
        ("slice(start + PANEL)", "slice(start, start + PANEL)"),
        ("slice(start + PANEL)", "slice(None)"),
        ("[C[..., rows, columns] for", "[0 * C[..., rows, columns] for"),
        ("= out[..., rows, :start].mT", "= out[..., rows, :start].mT.flip(-1)"),
        ("        out[..., :start, rows] = out[..., rows, :start].mT\n", ""),
    ],
    ("optim/muon.py", "def _update_sharded("): [
        ('max(group["eps"], torch.finfo(X.dtype).tiny)', "1"),
        ('max(group["eps"], torch.finfo(X.dtype).tiny)', 'group["eps"]'),
        ("_descend(p, O.reshape(p.shape).to(p.dtype), group, factor", "_descend(p, O, group, 1"),
    ],
    ("optim/muon.py", "GROWTH = {"): [
        ("torch.bfloat16: 12", "torch.bfloat16: 50"),
        ("torch.float16: 12", "torch.float16: 50"),
    ],
    ("optim/muon.py", "def _iteration_dtype("): [
        ('group["method"] == "svd" or ', ""),
    ],
    ("optim/muon.py", "def _descend("): [
        ("1 - float(lr) * decay", "1 - float(lr) * scale * decay"),
        ("alpha=-float(lr) * scale", "alpha=-float(lr)"),
        ("sub_(lr * scale *", "sub_(lr *"),
    ],
    ("optim/muon.py", "def _not_for_muon("): [
        ("[-1:]", "[:1]"),
        ("for name in names]", "for name in names[-1:]]"),
        ("nn.Embedding, ", ""),
    ],
    ("optim/momentum.py", "class SGD"): [
        ('1 - group["dampening"]', "1"),
        ("] = z.clone()", '] = z.clone() * (1 - group["dampening"])'),
        ("] = z.clone()", "] = z"),
        ("z.add(b, alpha=beta) if", "b.add(z, alpha=beta) if"),
        (".mul_(beta).add_(z, alpha=1", ".mul_(beta).add_(z, alpha=-1"),
        (" or torch.compiler.is_compiling()", ""),
        ('nesterov=group["nesterov"]', "nesterov=False"),
        ('maximize=group["maximize"]', "maximize=False"),
        ('weight_decay=group["weight_decay"]', "weight_decay=0.0"),
        ('dampening=group["dampening"]', "dampening=0.0"),
        ("is_first_step=first", "is_first_step=False"),
        ("is_first_step=first", "is_first_step=True"),
        ("[p.grad for p in params]", "[p.grad.mul_(1.0001) for p in params]"),
        ("(not buffers, name)", "(False, name)"),
        ("increment_version([*params, *buffers])", "set_multithreading_enabled(True)"),
    ],
    ("optim/base.py", "FUSED = {"): [
        ('"cpu": (torch.float32, torch.float64)', '"cpu": (torch.float32, torch.bfloat16)'),
    ],
    ("optim/base.py", "def kernel_list("): [
        ("contiguous = p.is_contiguous()", "contiguous = True"),
        ("contiguous and x.is_contiguous()", "contiguous"),
        ("for x in (z, *buffers):", "for x in buffers:"),
        ("for x in (z, *buffers):", "for x in (z,):"),
        ("_are_channels_last(p, z, *buffers)", "_are_channels_last(z, *buffers)"),
        ("_are_channels_last(p, z, *buffers)", "_are_channels_last(p, *buffers)"),
        ("_are_channels_last(p, z, *buffers)", "_are_channels_last(p, z)"),
        (" if type(p) in PLAIN else None", ""),
    ],
    ("optim/base.py", "def subtract("): [
        ("z.clone() if lr.requires_grad else z", "z"),
        ("lr.requires_grad or torch.compiler.is_compiling()", "lr.requires_grad"),
        ("lr.requires_grad or torch.compiler.is_compiling()", "torch.compiler.is_compiling()"),
        ("value=-1", "value=1"),
        ("alpha=-float(lr)", "alpha=float(lr)"),
    ],
    ("optim/momentum.py", "class HeavyBall"): [
        (".mul_(beta)\n            subtract(displacement", "\n            subtract(displacement"),
        ('subtract(displacement, z, group["lr"])', 'subtract(displacement, z / 2, group["lr"])'),
        ("p.add_(displacement)", "p.sub_(displacement)"),
        ("alpha=1 - beta)", "alpha=1)"),
        ("alpha=1 - beta)", "alpha=beta)"),
        ("subtract(p, v, group", "subtract(p, 2 * v, group"),
        ('"exp_avg")', '"displacement")'),
    ],
    ("optim/momentum.py", "class Nesterov"): [
        ('        subtract(p, z, group["lr"])\n', ""),
        ('.add_(displacement, alpha=group["momentum"])', ".add_(displacement)"),
        ("subtract(displacement, z, group", "subtract(displacement, -z, group"),
    ],
    ("optim/momentum.py", "def gradient_of("): [
        ("p.grad.neg() if group", "p.grad.neg_() if group"),
        ('p.grad.neg() if group["maximize"]', "p.grad.neg() if False"),
        ("return z.add(p, alpha", "return z.add_(p, alpha"),
        ("return z.add(p, alpha=decay)", "return z.sub(p, alpha=decay)"),
        ("addcmul(p.clone(), decay)", "addcmul(p, decay)"),
    ],
    ("optim/base.py", "def add_param_group("): [
        ("            self.param_groups.pop()\n", ""),
    ],
    ("optim/base.py", "def step("): [
        ("torch.enable_grad()", "torch.no_grad()"),
        ("return loss", "return None"),
        ('group.get("differentiable", False)', "False"),
        ("if p.grad is not None]", "]"),
    ],
    ("optim/base.py", "def __setstate__("): [
        ("group.setdefault(name, value)", "pass"),
    ],
    ("optim/base.py", "def _check_group("): [
        ("0 <= lr < math.inf", "0 <= lr"),
        ('group.get("fused") and group.get("foreach")', "False"),
    ],
    ("optim/base.py", "def nonnegative("): [
        ("0 <= group[key] < math.inf", "group[key] < math.inf"),
    ],
    ("optim/base.py", "def in_range("): [
        ("0 <= group[key] < 1", "0 <= group[key]"),
    ],
    ("optim/base.py", "def _check_gradients("): [
        (" or z.isfinite().all()", ""),
        ("z.sum().isfinite() or", "True or"),
    ],
    ("estimators.py", "class FullBatch"): [
        ("for w in places", "for w in places[:1] * len(places)"),
        ("return self.problem.gradient(w)", "return self.problem._gradient(w, None)"),
        ("tuple(self.problem.gradient(w) for", "tuple(self.problem._gradient(w, None) for"),
    ],
    ("estimators.py", "class MiniBatch"): [
        ("replace=self.replace)", "replace=True)"),
        ("replace=self.replace)", "replace=False)"),
        ("torch.Generator().manual_seed(seed)", "torch.default_generator"),
        ("manual_seed(seed)", "manual_seed(0)"),
        ("draw(self.size,", "draw(1,"),
        ("self.problem.gradient(w, sample)", "self.problem._gradient(w, sample)"),
        (
            "tuple(self.problem.gradient(w, sample) for w in places)",
            "tuple(self(w) for w in places) if places[1:] else "
            "tuple(self.problem.gradient(w, sample) for w in places)",
        ),
        ("if size < 1", "if size < 0"),
        ("size > problem.n", "size >= problem.n"),
    ],
    ("problems.py", "def draw("): [
        ("if replace:", "if not replace:"),
        (
            "torch.randint(self.n, (size,), generator=generator)",
            "torch.randint(self.n - 1, (size,), generator=generator)",
        ),
    ],
    ("problems.py", "def gradient("): [
        ("if sample is None else len(sample)", "if sample is None else 1"),
        ("(self.n or 1) if", "1 if"),
    ],
    ("problems.py", "class Quadratic"): [
        ("* gap).sum(-1) / 2", "* gap).sum(-1)"),
        ("sample.mean(0)", "sample.sum(0)"),
        ("self.noise_root.mT", "self.noise_root"),
        (
            "Q @ torch.diag(spectrum.double()) @ Q.T",
            "Q.T @ torch.diag(spectrum.double()) @ Q + 0.1 * Q.T",
        ),
        ("self.spectrum.min().item()", "self.spectrum[-1].item()"),
        ("torch.randn(size, *like.shape,", "torch.randn(size, like.shape[-1],"),
    ],
    ("problems.py", "class QuantileSearch"): [
        ("(sample <= w)", "(sample >= w)"),
        ("+ density - self.q * w", "- self.q * w"),
        ("icdf(torch.tensor(q", "icdf(torch.tensor(1 - q"),
    ],
    ("problems.py", "class LogisticRegression"): [
        ("self.l2 / 2 * w.square()", "self.l2 * w.square()"),
        ("w.square().sum(-1)", "w.square().sum()"),
        ("of_labels.mean((-2, -1))", "of_labels.mean()"),
        (".flatten(-2) + self.l2 * w", ".flatten(-2)"),
        ("outer.flatten(1) + self.l2 * w", "outer.flatten(1)"),
        ("(2 if classes == 2 else 1)", "1"),
        ("(self.n * self.l2)", "self.l2"),
        ("[-columns / 2, columns / 2]", "[columns / 2, -columns / 2]"),
        ("return probabilities - ", "return 1.001 * probabilities - "),
    ],
    ("problems.py", "class Objective"): [
        ("if sample is None else sample", "if True else sample"),
        ("range(w.ndim - self.start.ndim)", "range(min(1, w.ndim - self.start.ndim))"),
        ("grad(self.f)(w, i.unsqueeze(0))", "grad(self.f)(w, 0 * i.unsqueeze(0))"),
    ],
    ("problems.py", "class Network"): [
        ("if index < p.numel()", "if index <= p.numel()"),
        ("y[indices])", "y[indices.flip(0)])"),
    ],
    ("run.py", "def run("): [
        ("schedule(t)", "schedule(t - 1)"),
        ("schedule(t)", "schedule(t + 1)"),
        ("rule(w, z, state, **hyper)", "rule(w, z, None, **hyper)"),
        ("problem.evaluations - spent", "problem.evaluations"),
        ("w if project is None else project(w)", "w"),
        ("        if t in recorded:\n", "        if True:\n"),
        ("    note(0)\n", ""),
        ("problem.start.clone()", "problem.start"),
        ("        _check_gradient(z, t, problem, history)\n", ""),
        ("if not loss.isfinite().all()", "if loss.isnan().any()"),
        ("history.w = w\n", "pass\n"),
        ("estimator.at(points(", "tuple(estimator(p) for p in points("),
    ],
    ("run.py", "def _append("): [
        (".numpy().copy()", ".numpy()"),
    ],
    ("run.py", "def _record_times("): [
        ("steps + 1, every), steps}", "steps + 1, every)}"),
        ("range(every, steps + 1", "range(1, steps + 1"),
        ("2 ** (k / 4)", "2 ** (k / 2)"),
    ],
    ("run.py", "def _check_gradient("): [
        ("parameter_at(entry)", "parameter_at(0)"),
        (" or gradient.isfinite().all()", ""),
        ("gradient.sum().isfinite() or", "True or"),
    ],
    ("run.py", "def _worst("): [
        ('"NaN" if', '"NaN" if not'),
    ],
    ("schedules.py", "def _from_step_one("): [
        ("if not t >= 1", "if t < 1"),
        ("if not t >= 1", "if not t >= 0"),
    ],
    ("schedules.py", "def constant("): [
        ("lambda t: value", "lambda t: value / t"),
    ],
    ("schedules.py", "def power("): [
        ("t**-exponent", "(t + 1) ** -exponent"),
        ("t**-exponent", "t**exponent"),
        ('    _nonnegative("exponent", exponent)\n', ""),
    ],
    ("schedules.py", "def inverse_time("): [
        ("2 / (mu * (t + offset))", "2 / (mu * t + offset)"),
        ("2 / (mu", "1 / (mu"),
        ("if not 0 < mu", "if not 0 <= mu"),
        ("-1 < offset", "-1 <= offset"),
    ],
    ("schedules.py", "def linear("): [
        ("(t - 1) / steps", "t / steps"),
        ("min((t - 1) / steps, 1.0)", "(t - 1) / steps"),
        ("end - start", "start - end"),
    ],
    ("schedules.py", "def warm_up("): [
        ("t / steps", "(t - 1) / steps"),
        ("if t < steps", "if t <= steps + 1"),
    ],
    ("schedules.py", "def cosine("): [
        ("(t - 1) / steps", "t / steps"),
        ("min((t - 1) / steps, 1.0)", "(t - 1) / steps"),
        ("end + (1 - end)", "end + 1"),
    ],
    ("schedules.py", "def step_decay("): [
        ("(t - 1) // every", "t // every"),
    ],
    ("schedules.py", "def warm_up_stable_decay("): [
        ("steps - decay", "steps - decay - 1"),
        ("if warm_up + decay > steps", "if warm_up + decay >= steps"),
        ("linear(max(decay, 1), end=end)", "linear(max(decay, 1))"),
        ("max(warm_up, 1), 1.0)", "max(warm_up, 1), 2.0)"),
    ],
    ("schedules.py", "def compose("): [
        ("t - milestones[k - 1] if k", "t - milestones[0] if k"),
        ("bisect_left", "bisect_right"),
        ("t - milestones[k - 1] if k else t", "t"),
        ("if any(a >= b", "if any(a > b"),
    ],
    ("schedules.py", "def multiply("): [
        ("math.prod(schedule(t) for", "sum(schedule(t) for"),
    ],
    ("schedules.py", "def lambda_lr("): [
        ('group["lr"].clone()', 'group["lr"]'),
        ("s(epoch + 1)", "s(epoch)"),
        ("s(epoch + 1)", "schedules[0](epoch + 1)"),
    ],
    ("claims.py", "def check("): [
        ("low <= measured <= high", "low < measured <= high"),
        ("low <= measured <= high", "low <= measured < high"),
        ("math.isfinite(measured) and ", ""),
        ("Claim(id, sentence, measured, text)", "Claim(id, sentence, high, text)"),
        ("re.fullmatch", "re.match"),
        ("(-math.inf, bound)", "(0, bound)"),
    ],
    ("claims.py", "def _nearest("): [
        (" if math.isfinite(x) else math.inf", ""),
        ("max(low - x, x - high)", "x - high"),
        ("max(low - x, x - high)", "low - x"),
        ("max(numbers", "min(numbers"),
        (' and getattr(measured, "ndim", 1) > 0', ""),
    ],
    ("claims.py", "def _bound_text("): [
        ("≥", "≤"),
    ],
    ("claims.py", "def loglog_slope("): [
        ("np.polyfit(np.log(x), np.log(y), 1)[0]", "np.polyfit(np.log(y), np.log(x), 1)[0]"),
        ("(x > 0)", "(x >= 0)"),
    ],
    ("data.py", "def mnist("): [
        ("/ 255", "/ 256"),
        ("x[:cut], y[:cut], x[cut:], y[cut:]", "x[-cut:], y[-cut:], x[:-cut], y[:-cut]"),
        ("y[cut:], x_test", "y[:10_000], x_test"),
    ],
    ("data.py", "def coarse("): [
        ("(rows, columns)", "(columns + 1, rows)"),
        ("math.ceil(max(data.shape) / side)", "side"),
    ],
    ("data.py", "def digits("): [
        ("bunch.target[order]", "bunch.target"),
        ("default_rng(0)", "default_rng()"),
    ],
    ("data.py", "def _mnist_file("): [
        ('known_hash=f"md5:{MNIST_MD5[name]}"', "known_hash=None"),
        ("in MIRRORS", "in MIRRORS[:1]"),
        ("(OSError, ValueError)", "OSError"),
    ],
    ("data.py", "def device("): [
        (" and dtype != torch.float64", ""),
    ],
}


def mutated(file: str, place: str, old: str, new: str) -> str:
    source = (ROOT / "optcore" / file).read_text(encoding="utf-8")
    before, found, after = source.partition(place)
    if not found or old not in after:
        sys.exit(f"{file} has no {old!r} after {place!r}: bring the table up to date.")
    return before + place + after.replace(old, new, 1)


def test_file(file: str) -> str:
    # What all of a floor share is tested through its first users.
    shared = {"optim/base.py": "optim/momentum.py", "rules/checks.py": "rules/momentum.py"}
    return "tests/test_" + shared.get(file, file).replace("/", "_")


def passes(tree: Path, file: str) -> bool:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        test_file(file),
    ]
    settings = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tree, env={**os.environ, **settings}, capture_output=True, text=True
    )
    if done.returncode > 2:  # 2: the mutant raises while the tests are collected
        sys.exit(f"pytest could not run {test_file(file)}:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def new_tree(folder: str, number: int) -> Path:
    tree = Path(folder) / str(number)
    shutil.copytree(ROOT / "optcore", tree / "optcore")
    shutil.copytree(ROOT / "tests", tree / "tests")
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, tree)
    return tree


def main(words: list[str]) -> int:
    chosen = [
        (file, place, old, new)
        for (file, place), replacements in MUTANTS.items()
        for old, new in replacements
        if not words or any(word in file for word in words)
    ]
    sources = [mutated(*mutant) for mutant in chosen]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        trees = SimpleQueue()
        for number in range(WORKERS):
            trees.put(new_tree(folder, number))

        def caught(file: str, source: str | None) -> bool:
            tree = trees.get()
            target = tree / "optcore" / file
            original = target.read_text(encoding="utf-8")
            try:
                target.write_text(source or original, encoding="utf-8")
                return not passes(tree, file)
            finally:
                target.write_text(original, encoding="utf-8")
                trees.put(tree)

        files = sorted({mutant[0] for mutant in chosen})
        for file, red in zip(files, pool.map(caught, files, [None] * len(files)), strict=True):
            if red:
                sys.exit(f"{test_file(file)} fails without any mutant: repair that first.")
        escaped = 0
        results = pool.map(caught, [mutant[0] for mutant in chosen], sources)
        for (file, place, old, new), was_caught in zip(chosen, results, strict=True):
            escaped += not was_caught
            verdict = "caught " if was_caught else "ESCAPED"
            print(f"{verdict}  {file}  {place}  {old!r} → {new!r}", flush=True)
    print(f"{len(chosen) - escaped} of {len(chosen)} caught")
    return int(escaped > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
