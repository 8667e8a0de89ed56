//! The CPUs that the kernel may ever have.

use super::DatapathError;

/// See the fields: they differ where the numbers have holes, as on some machines with sockets that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cpus {
    /// How many there are: values of an element of the kernel's per-CPU maps.
    pub count: u32,
    /// The highest number, and one: elements of arrays that the programs index by the CPU's number.
    pub numbers: u32,
}

impl Cpus {
    /// Asks the kernel.
    pub fn possible() -> Result<Self, DatapathError> {
        const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
        let host = |why: String| DatapathError::Host(format!("cannot count the CPUs ({POSSIBLE}): {why}"));
        let text = std::fs::read_to_string(POSSIBLE).map_err(|error| host(error.to_string()))?;
        Self::of(&text).ok_or_else(|| host(format!("it says {text:?}")))
    }

    /// Of a list of numbers and ranges, ascending: `0-3,8`.
    fn of(list: &str) -> Option<Self> {
        let mut cpus = Self { count: 0, numbers: 0 };
        for range in list.trim().split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            let next = last.checked_add(1)?;
            cpus.count = cpus.count.checked_add(next.checked_sub(first)?)?;
            cpus.numbers = cpus.numbers.max(next);
        }
        Some(cpus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_have_holes() {
        let of = |list| Cpus::of(list).map(|cpus| (cpus.count, cpus.numbers));
        assert_eq!(Some((1, 1)), of("0\n"));
        assert_eq!(Some((4, 4)), of("0-3\n"));
        assert_eq!(Some((6, 10)), of("0-3,8-9\n"));
        assert_eq!(Some((2, 65)), of("0,64"));
        for nonsense in ["", "a", "3-1", "0-", "0-4294967295"] {
            assert_eq!(None, of(nonsense), "{nonsense}");
        }
    }

    #[test]
    fn this_machine_has_some() {
        let cpus = Cpus::possible().expect("Linux says");
        assert!(cpus.count >= 1 && cpus.numbers >= cpus.count, "{cpus:?}");
    }
}
