// The entry points of models of several terms for one instruction set (see engine.cpp).
#include "crossings.hpp"
#include "descend.hpp"
#include "pairs.hpp"
#include "terms_at.hpp"
#include "terms_fit.hpp"

namespace KETY_NS {

// Models have up to 5 or up to 8 parameters; what a model does not use is fixed and costs little.
template <class T, int W, class Work>
void by_size(const TermsCall& call, const Work& work) {
  if (call.model.parameters <= 5)
    work.template operator()<5>();
  else
    work.template operator()<8>();
}

template <class T, int W>
void forward_of(const TermsCall& call, long begin, long end) {
  by_size<T, W>(call, [&]<int P>() { terms_forward_range<T, W, P>(call, begin, end); });
}
template <class T, int W>
void normals_of(const TermsCall& call, long begin, long end) {
  by_size<T, W>(call, [&]<int P>() { terms_normals_range<T, W, P>(call, begin, end); });
}
template <class T, int W>
void fit_of(const TermsCall& call, long begin, long end) {
  by_size<T, W>(call, [&]<int P>() { terms_fit_range<T, W, P>(call, begin, end); });
}

constexpr int kWide = KETY_LANES, kHalf = (KETY_LANES + 1) / 2;

void terms_forward_any(const TermsCall& call, long begin, long end, bool single) {
  single ? forward_of<float, kWide>(call, begin, end) : forward_of<double, kHalf>(call, begin, end);
}
void terms_normals_any(const TermsCall& call, long begin, long end, bool single) {
  single ? normals_of<float, kWide>(call, begin, end) : normals_of<double, kHalf>(call, begin, end);
}
void terms_fit_any(const TermsCall& call, long begin, long end, bool single) {
  single ? fit_of<float, kWide>(call, begin, end) : fit_of<double, kHalf>(call, begin, end);
}
void pairs_any(const PairsCall& call, long begin, long end) {
  pairs_range<KETY_LANES>(call, begin, end);
}

void descend_any(const DescentCall& call, long begin, long end) {
  descend_range<KETY_LANES>(call, begin, end);
}

void crossings_any(const CrossingsCall& call, long begin, long end) {
  crossings_range<kHalf>(call, begin, end);
}

}  // namespace KETY_NS
