//! Addresses of map values inside the programs.
//!
//! The programs find the elements of some tables without a look-up: such a table is the one value of an array map, and the
//! kernel puts the value's address into each instruction that is marked for it (BPF_PSEUDO_MAP_VALUE). aya marks
//! instructions for its own data sections only, which are neither pinned nor mapped, and which it clears when it loads. So
//! the programs refer to symbols that nobody defines, `VALUE_OF_` and the name of a pinned map; aya leaves these
//! instructions as they are, and they are marked here, before aya gets the object.

use std::os::fd::RawFd;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};

/// What the symbol of a map's value is called by, before the map's name.
const PREFIX: &str = "VALUE_OF_";
/// Bytes of an instruction.
const INSTRUCTION: usize = 8;
/// `dst = imm64`: the instruction that takes two places.
const LOAD_IMM64: u8 = 0x18;
/// The upper half of an instruction's second byte: the immediate is a map's descriptor, and the next one an offset into its
/// value.
const PSEUDO_MAP_VALUE: u8 = 2 << 4;

/// The object with the descriptors of the maps whose values its programs refer to. They must stay open until
/// the programs are loaded.
pub(super) fn resolve(
    object: &[u8],
    mut descriptor: impl FnMut(&str) -> Result<RawFd, String>,
) -> Result<Vec<u8>, String> {
    let file = object::File::parse(object).map_err(|error| error.to_string())?;
    let mut resolved = object.to_vec();
    for section in file.sections() {
        let Some((start, _)) = section.file_range() else { continue };
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else { continue };
            let symbol = file.symbol_by_index(index).map_err(|error| error.to_string())?;
            let Some(name) = symbol.name().ok().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            let place = usize::try_from(start + offset).map_err(|error| error.to_string())?;
            let instruction = resolved
                .get_mut(place..place + 2 * INSTRUCTION)
                .and_then(|bytes| <&mut [u8; 2 * INSTRUCTION]>::try_from(bytes).ok())
                .filter(|bytes| bytes[0] == LOAD_IMM64)
                .ok_or_else(|| format!("the value of {name} is asked for by no load at {place:#x}"))?;
            mark(instruction, descriptor(name)?);
        }
    }
    Ok(resolved)
}

/// Marks a load; its immediate is the offset into the value before.
fn mark(load: &mut [u8; 2 * INSTRUCTION], descriptor: RawFd) {
    load[1] = load[1] & 0x0f | PSEUDO_MAP_VALUE;
    load.copy_within(4..8, 12);
    load[4..8].copy_from_slice(&descriptor.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_gets_descriptor_and_offset() {
        // r3 = VALUE + 20.
        let mut load = [0x18, 0x03, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        mark(&mut load, 0x0102);
        assert_eq!([0x18, 0x23, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0], load);
    }

    #[test]
    fn the_object_refers_to_values_of_its_own_maps() {
        let object = aya_obj::Object::parse(super::super::load::OBJECT).unwrap();
        let mut names = std::collections::BTreeSet::new();
        let resolved = resolve(super::super::load::OBJECT, |name| {
            assert!(object.maps.contains_key(name), "{name}");
            names.insert(name.to_owned());
            Ok(9)
        });
        assert!(resolved.unwrap() != super::super::load::OBJECT);
        assert!(names.contains("CONFIG") && names.contains("TARGETS"), "{names:?}");
        assert!(resolve(super::super::load::OBJECT, |_| Err("none".to_owned())).is_err());
    }
}
