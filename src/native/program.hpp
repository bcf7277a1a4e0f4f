// Runs a model's program on lanes: the values of its outputs and their derivatives with respect to
// the parameters, by the chain rule along the way. A new model so needs no C++.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

// The program with what depends on what, found once.
struct Program {
  const ProgramCall* call;
  unsigned depends[kMaxRegisters];  // bit p: the register depends on parameter p
  struct Link {
    unsigned char output, parameter;
  } links[kMaxOutputs * kMaxParameters];
  int link_count;
};

inline Program make_program(const ProgramCall& model) {
  Program p = {};
  p.call = &model;
  for (int i = 0; i < model.parameters; ++i) p.depends[i] = 1u << i;
  for (int s = 0; s < model.steps; ++s) {
    const int* code = model.code + 3 * s;
    p.depends[model.parameters + s] =
        code[0] == kConstant ? 0 : p.depends[code[1]] | p.depends[code[2]];
  }
  for (int k = 0; k < model.outputs; ++k)
    for (int i = 0; i < model.parameters; ++i)
      if (p.depends[model.output[k]] >> i & 1)
        p.links[p.link_count++] = {static_cast<unsigned char>(k), static_cast<unsigned char>(i)};
  return p;
}

template <class T, int W, int P>
struct Jet {
  Lanes<T, W> f, d[P > 0 ? P : 1];  // one that is not used where P is 0
};

// Values and derivatives of the outputs at the parameters; values alone where P is 0.
template <class T, int W, int P>
KETY_STAGE void run_program(const Program& program, const Lanes<T, W>* parameters,
                            Jet<T, W, P>* outputs) {
  using V = Lanes<T, W>;
  const ProgramCall& model = *program.call;
  const int n = model.parameters;
  Jet<T, W, P> r[kMaxRegisters];
  const V zero = {}, one = zero + T(1);
  for (int i = 0; i < n; ++i) {
    r[i].f = parameters[i];
    for (int q = 0; q < P; ++q) r[i].d[q] = q == i ? one : zero;
  }
  for (int s = 0; s < model.steps; ++s) {
    const int* code = model.code + 3 * s;
    Jet<T, W, P>& to = r[n + s];
    const Jet<T, W, P>&a = r[code[1]], &b = r[code[2]];
    V da = one, db = zero;  // slopes of the result in a and b
    switch (code[0]) {
      case kConstant:
        to.f = zero + static_cast<T>(model.constant[s]);
        break;
      case kAdd:
        to.f = a.f + b.f;
        db = one;
        break;
      case kSubtract:
        to.f = a.f - b.f;
        db = -one;
        break;
      case kMultiply:
        to.f = a.f * b.f;
        da = b.f;
        db = a.f;
        break;
      case kDivide:
        to.f = a.f / b.f;
        if (P > 0) {
          da = one / b.f;
          db = -(to.f * da);
        }
        break;
      case kRoot: {
        const V inside = upper(a.f, zero);
        to.f = root<T, W>(inside);
        const V safe = to.f > zero ? to.f : one;
        da = to.f > zero ? V(T(0.5) / safe) : zero;
        break;
      }
      case kExponential: {
        // Of either sign: exp(x) = 1 / exp(-x).
        const V away = a.f < zero ? V(-a.f) : a.f, small = decay_of<T, W>(away);
        to.f = a.f <= zero ? small : V(one / upper(small, V(zero + T(1e-30))));
        da = to.f;
        break;
      }
      case kMaximum: {
        const Mask<T, W> first = a.f >= b.f;
        to.f = first ? a.f : b.f;
        da = first ? one : zero;
        db = one - da;
        break;
      }
    }
    const unsigned depends = program.depends[n + s];
    for (int q = 0; q < P; ++q)
      to.d[q] = depends >> q & 1 ? add_product(V(db * b.d[q]), da, a.d[q]) : zero;
  }
  for (int k = 0; k < model.outputs; ++k) outputs[k] = r[model.output[k]];
}

}  // namespace KETY_NS
