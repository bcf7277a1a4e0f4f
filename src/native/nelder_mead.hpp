// Nelder and Mead's simplex in the unit box as a machine that asks for one value at a time, so that
// searches at different stages can share a register: each lane, or each thread of a GPU, runs one.
//
// Coefficients 1, 2, 1/2, 1/2 and the order of the decisions as in Lagarias et al., SIAM J Optim
// 9:112, 1998; points outside the box are put on its border.
#pragma once
#include "lanes.hpp"

namespace KETY_NS {

// Relative rounding of a sum of squares.
template <class T>
constexpr T kRounding = sizeof(T) == 4 ? T(2e-6) : T(5e-16);

template <class T>
struct SimplexRules {
  int dimension, max_iterations;
  T ftol, xtol, step;  // ftol: of this curve
};

template <class T>
struct Simplex {
  static constexpr int kMost = 4;
  enum Phase : int { kFill, kReflect, kExpand, kContractOut, kContractIn, kShrink };

  T x[kMost + 1][kMost], f[kMost + 1];  // vertices, best first
  T centre[kMost], reflected[kMost], f_reflected;
  T ask[kMost];  // the point whose value is wanted
  int phase, vertex, iterations, evaluations;
  bool converged;

  KETY_FN static T clip(T v) { return v < T(0) ? T(0) : v > T(1) ? T(1) : v; }

  KETY_FN void start(const SimplexRules<T>& rules, const double* origin) {
    const int n = rules.dimension;
    for (int i = 0; i <= n; ++i)
      for (int j = 0; j < n; ++j) x[i][j] = clip(static_cast<T>(origin[j]));
    for (int i = 0; i < n; ++i) {
      T& v = x[i + 1][i];
      v += v + rules.step > T(1) ? -rules.step : rules.step;
      v = clip(v);
    }
    phase = kFill;
    vertex = iterations = evaluations = 0;
    converged = false;
    for (int j = 0; j < n; ++j) ask[j] = x[0][j];
  }

  // Takes the value at `ask`; true while another one is wanted.
  KETY_FN bool take(const SimplexRules<T>& rules, T value) {
    const int n = rules.dimension;
    ++evaluations;
    switch (phase) {
      case kFill:
      case kShrink:
        f[vertex] = value;
        if (vertex < n) {
          next_vertex(n);
          return true;
        }
        sort(n);
        if (phase == kShrink) ++iterations;
        break;
      case kReflect:
        f_reflected = value;
        if (value < f[0]) {
          move(n, T(3), T(-2));
          phase = kExpand;
          return true;
        }
        if (value < f[n - 1]) {
          accept_reflected(n);
        } else if (value < f[n]) {
          move(n, T(1.5), T(-0.5));
          phase = kContractOut;
          return true;
        } else {
          move(n, T(0.5), T(0.5));
          phase = kContractIn;
          return true;
        }
        break;
      case kExpand:
        if (value < f_reflected)
          accept(n, value);
        else
          accept_reflected(n);
        break;
      case kContractOut:
      case kContractIn:
        if (phase == kContractOut ? value <= f_reflected : value < f[n]) {
          accept(n, value);
          break;
        }
        for (int i = 1; i <= n; ++i)
          for (int j = 0; j < n; ++j) x[i][j] = x[0][j] + T(0.5) * (x[i][j] - x[0][j]);
        phase = kShrink;
        vertex = 0;
        next_vertex(n);
        return true;
    }
    if (small(rules)) {
      converged = true;
      return false;
    }
    if (iterations >= rules.max_iterations) return false;
    for (int j = 0; j < n; ++j) {
      T sum = 0;
      for (int i = 0; i < n; ++i) sum += x[i][j];
      centre[j] = sum / static_cast<T>(n);
    }
    move(n, T(2), T(-1));
    for (int j = 0; j < n; ++j) reflected[j] = ask[j];
    phase = kReflect;
    return true;
  }

 private:
  KETY_FN void next_vertex(int n) {
    ++vertex;
    for (int j = 0; j < n; ++j) ask[j] = x[vertex][j];
  }

  // Ask for centre * c + worst * w.
  KETY_FN void move(int n, T c, T w) {
    for (int j = 0; j < n; ++j) ask[j] = clip(c * centre[j] + w * x[n][j]);
  }

  // Whether values and vertices have come together; values within rounding cannot tell vertices
  // apart any more, however far these are.
  KETY_FN bool small(const SimplexRules<T>& rules) const {
    const int n = rules.dimension;
    const T spread = f[n] - f[0];
    if (spread <= kRounding<T> * f[0]) return true;
    if (!(spread <= rules.ftol)) return false;
    for (int i = 1; i <= n; ++i)
      for (int j = 0; j < n; ++j) {
        const T d = x[i][j] - x[0][j];
        if (!((d < T(0) ? -d : d) <= rules.xtol)) return false;
      }
    return true;
  }

  KETY_FN void accept(int n, T value) {
    for (int j = 0; j < n; ++j) x[n][j] = ask[j];
    f[n] = value;
    insert(n);
    ++iterations;
  }
  KETY_FN void accept_reflected(int n) {
    for (int j = 0; j < n; ++j) x[n][j] = reflected[j];
    f[n] = f_reflected;
    insert(n);
    ++iterations;
  }

  // Bring vertex i to its place among those before it; equals keep their order.
  KETY_FN void insert(int i) {
    for (; i > 0 && f[i] < f[i - 1]; --i) {
      const T value = f[i];
      f[i] = f[i - 1];
      f[i - 1] = value;
      for (int j = 0; j < kMost; ++j) {
        const T v = x[i][j];
        x[i][j] = x[i - 1][j];
        x[i - 1][j] = v;
      }
    }
  }
  KETY_FN void sort(int n) {
    for (int i = 1; i <= n; ++i) insert(i);
  }
};

}  // namespace KETY_NS
