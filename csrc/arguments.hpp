/// What Python may hand over: how much of it is looked at before it has been checked, and what is refused.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <concepts>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gfnet/scheduler.hpp"
#include "gfnet/simulation.hpp"

namespace gfnet {

namespace py = pybind11;

using Ints = py::array_t<std::int32_t>;
using Records = py::array_t<std::int32_t, py::array::c_style>;
using Times = py::array_t<double, py::array::c_style | py::array::forcecast>;

/// A plan that owns its arrays, so that it may outlive the launch. Reading it makes no objects but small numbers.
struct PyPlan {
  Plan plan;
  py::object verdict;
  py::object stage;
  Ints slots;
  Ints steps;
};

struct PyDepartures {
  Ints slots;
  Ints steps;
  Ints reasons;
};

template <class T, class... Classes>
concept one_of = (std::same_as<T, Classes> || ...);

template <class T>
concept bound = one_of<T, CostTable, PyPlan, PyDepartures, Occupancy, Statistics, Scheduler, Load, Machine, Report>;

/// A Python sequence of at most `most` items; of a longer one only the length.
template <class T, std::size_t most>
struct Items {
  std::vector<T> items;
  std::size_t length = 0;

  const std::vector<T>& checked(const char* name) const {
    if (length <= most) return items;
    throw std::invalid_argument(std::string(name) + ": expected at most " + std::to_string(most) + " items, got " +
                                std::to_string(length));
  }
};

/// `sequence[which]`. A mapping passes for a sequence until it is asked.
inline py::object part(py::handle sequence, const py::object& which) {
  PyObject* found = PyObject_GetItem(sequence.ptr(), which.ptr());
  if (found == nullptr && PyErr_ExceptionMatches(PyExc_KeyError)) {
    PyErr_Clear();
    throw py::type_error(std::string(Py_TYPE(sequence.ptr())->tp_name) + ": expected a sequence, got a mapping");
  }
  if (found == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(found);
}

/// A one-dimensional array, no copy of one, whose dtype is of one of the `kinds`, which `expected` names.
inline py::array row(const char* name, const py::object& given, std::size_t length, std::string_view kinds,
                     const char* expected) {
  if (PyList_Check(given.ptr()) || PyTuple_Check(given.ptr())) {  // what is nested may be of any size
    for (const py::handle item : given) {
      if (!py::isinstance<py::sequence>(item)) continue;
      throw py::type_error(std::string(name) + ": expected " + expected + ", got " + Py_TYPE(item.ptr())->tp_name);
    }
  }
  py::array array(given);
  if (array.ndim() != 1 || static_cast<std::size_t>(array.size()) != length) {
    throw std::invalid_argument(std::string(name) + ": expected shape [" + std::to_string(length) + "], got " +
                                py::str(array.attr("shape")).cast<std::string>());
  }
  if (kinds.find(array.dtype().kind()) == std::string_view::npos) {
    throw py::type_error(std::string(name) + ": expected " + expected + ", got " +
                         py::str(array.dtype()).cast<std::string>());
  }
  return array;
}

/// Departures as an array [k, 3] of slots, steps and reasons: int32 without a copy, other integers where they fit.
inline Records to_records(const py::object& given) {
  if (!py::isinstance<py::array>(given)) {
    throw py::type_error(std::string("left: expected an integer array [k, 3], got ") + Py_TYPE(given.ptr())->tp_name);
  }
  const auto array = py::reinterpret_borrow<py::array>(given);
  if (array.ndim() != 2 || array.shape(1) != 3 || array.shape(0) > limits::rows) {
    throw std::invalid_argument("left: expected shape [k, 3], k up to " + std::to_string(limits::rows) + ", got " +
                                py::str(array.attr("shape")).cast<std::string>());
  }
  if (Records::check_(array) && (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0) {
    return py::reinterpret_borrow<Records>(array);
  }
  if (std::string_view("iu").find(array.dtype().kind()) == std::string_view::npos) {
    throw py::type_error("left: expected an integer array [k, 3], got " + py::str(array.dtype()).cast<std::string>());
  }
  const py::array_t<std::int64_t, py::array::c_style | py::array::forcecast> wide(array);
  Records records({wide.shape(0), py::ssize_t{3}});
  for (py::ssize_t i = 0; i < wide.size(); ++i) {
    if (!std::in_range<std::int32_t>(wide.data()[i])) {
      throw std::invalid_argument("left: expected numbers of 32 bits, got " + std::to_string(wide.data()[i]));
    }
    records.mutable_data()[i] = static_cast<std::int32_t>(wide.data()[i]);
  }
  return records;
}

/// The first `used` of `count` instants, in seconds.
inline std::vector<Seconds> to_times(const py::object& given, std::size_t count, std::size_t used) {
  if (!py::isinstance<py::sequence>(given)) throw py::type_error("deadlines: expected a sequence of seconds");
  if (const std::size_t length = py::len(given); length != count) {
    throw std::invalid_argument("deadlines: expected shape [" + std::to_string(count) + "], got length " +
                                std::to_string(length));
  }
  const py::object head = part(given, py::slice(0, static_cast<py::ssize_t>(used), 1));
  const Times seconds = row("deadlines", head, used, "fiu", "real numbers");
  return {seconds.data(), seconds.data() + used};
}

}  // namespace gfnet

namespace pybind11::detail {

/// An object made by __new__ alone has no C++ object behind it, and None none either.
template <gfnet::bound T>
class type_caster<T, void> : public type_caster_base<T> {
 public:
  bool load(handle source, bool convert) {
    if (source.is_none()) return false;
    const type_info* type = this->typeinfo;
    if (PyObject_TypeCheck(source.ptr(), type->type)) {
      auto* self = reinterpret_cast<instance*>(source.ptr());
      if (self->get_value_and_holder(type).value_ptr() == nullptr) {
        throw type_error(std::string(type->type->tp_name) + ": expected an object that __init__ has made, got a bare one");
      }
    }
    return type_caster_base<T>::load(source, convert);
  }
};

template <class T, std::size_t most>
class type_caster<gfnet::Items<T, most>> {
  using Sequence = gfnet::Items<T, most>;

 public:
  PYBIND11_TYPE_CASTER(Sequence, const_name("collections.abc.Sequence[") + make_caster<T>::name + const_name("]"));

  bool load(handle source, bool convert) {
    if (!isinstance<sequence>(source) || isinstance<str>(source) || isinstance<bytes>(source)) return false;
    value.length = len(source);
    for (std::size_t i = 0; i < value.length && value.length <= most; ++i) {
      make_caster<T> caster;
      const object item = gfnet::part(source, int_(i));
      if (!caster.load(item, convert)) return false;
      value.items.push_back(cast_op<T&&>(std::move(caster)));
    }
    return true;
  }
};

}  // namespace pybind11::detail
