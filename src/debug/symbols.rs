//! Names of the functions that addresses lie in: of this process's files, from their ELF symbol tables, and of the kernel.

use std::fs;

use object::elf::PF_X;
use object::{Object, ObjectSegment, ObjectSymbol, SegmentFlags, SymbolKind};

/// Larger files are not read.
const FILE_BYTES: u64 = 512 << 20;

/// A function, or a whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Symbol {
    start: u64,
    end: u64,
    name: String,
}

/// A piece of a file in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// File.
    pub path: String,
}

/// Symbols by address.
#[derive(Debug, Default)]
pub struct Symbols {
    sorted: Vec<Symbol>,
    /// Executable pieces of files.
    pub mappings: Vec<Mapping>,
}

impl Symbols {
    /// Of this process; with those of the kernel, when addresses are told (`kernel.kptr_restrict`).
    pub fn of_this_process(with_kernel: bool) -> Self {
        let mut symbols = Self {
            mappings: mappings(&fs::read_to_string("/proc/self/maps").unwrap_or_default()),
            sorted: Vec::new(),
        };
        for mapping in &symbols.mappings {
            // The executable may have been replaced or be out of sight.
            let own =
                fs::read_link("/proc/self/exe").is_ok_and(|exe| exe.as_os_str() == mapping.path.as_str());
            let path = if own { "/proc/self/exe" } else { &mapping.path };
            let small = fs::metadata(path).is_ok_and(|metadata| metadata.len() <= FILE_BYTES);
            let bytes = small.then(|| fs::read(path).ok()).flatten().unwrap_or_default();
            symbols.sorted.extend(functions(&bytes, mapping));
        }
        if with_kernel {
            symbols.sorted.extend(kernel(&fs::read_to_string("/proc/kallsyms").unwrap_or_default()));
        }
        symbols.sorted.sort_by_key(|symbol| symbol.start);
        symbols
    }

    /// What an address lies in.
    pub fn name(&self, address: u64) -> String {
        let after = self.sorted.partition_point(|symbol| symbol.start <= address);
        let found = self.sorted[..after].last().filter(|symbol| address < symbol.end);
        if let Some(symbol) = found {
            return symbol.name.clone();
        }
        match self.mapping(address) {
            Some((_, mapping)) => format!("[{}]", mapping.path),
            None if is_kernel(address) => "[kernel]".into(),
            None => "[unknown]".into(),
        }
    }

    /// The piece of a file that an address lies in, and its number.
    pub fn mapping(&self, address: u64) -> Option<(usize, &Mapping)> {
        self.mappings.iter().enumerate().find(|(_, mapping)| (mapping.start..mapping.end).contains(&address))
    }
}

/// The kernel has the upper half of all addresses.
pub fn is_kernel(address: u64) -> bool {
    address >> 63 == 1
}

/// Executable pieces of files, from /proc/PID/maps.
fn mappings(maps: &str) -> Vec<Mapping> {
    let piece = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let executable = fields.next()?.contains('x');
        let offset = fields.next()?;
        let path = fields.nth(2).filter(|path| path.starts_with('/'))?.to_owned();
        let hex = |text| u64::from_str_radix(text, 16).ok();
        executable.then_some(Mapping { start: hex(start)?, end: hex(end)?, offset: hex(offset)?, path })
    };
    maps.lines().filter_map(piece).collect()
}

fn kernel(kallsyms: &str) -> Vec<Symbol> {
    let symbol = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let start = u64::from_str_radix(fields.next()?, 16).ok().filter(|start| *start > 0)?;
        let kind = fields.next()?;
        kind.eq_ignore_ascii_case("t").then(|| Symbol {
            start,
            end: 0,
            name: fields.next().unwrap_or_default().into(),
        })
    };
    let mut all: Vec<Symbol> = kallsyms.lines().filter_map(symbol).collect();
    all.sort_by_key(|symbol| symbol.start);
    // No sizes are told: each reaches up to the next.
    let ends: Vec<u64> = all.iter().skip(1).map(|symbol| symbol.start).collect();
    for (symbol, end) in all.iter_mut().zip(ends.into_iter().chain([u64::MAX])) {
        symbol.end = end;
    }
    all
}

/// Functions of a file, where a mapping puts them; none of what can't be read.
fn functions(file: &[u8], mapping: &Mapping) -> Vec<Symbol> {
    let Ok(elf) = object::File::parse(file) else { return Vec::new() };
    // The piece whose bytes the mapping shows tells by how much addresses are moved.
    let shown = (mapping.offset, mapping.offset.saturating_add(mapping.end - mapping.start));
    let moved = elf.segments().find_map(|segment| {
        let (offset, size) = segment.file_range();
        let inside = offset < shown.1 && shown.0 < offset.saturating_add(size);
        let code = matches!(segment.flags(), SegmentFlags::Elf { p_flags } if p_flags & PF_X != 0);
        (code && inside).then(|| {
            mapping.start.wrapping_sub(mapping.offset).wrapping_add(offset).wrapping_sub(segment.address())
        })
    });
    let Some(moved) = moved else { return Vec::new() };
    let symbol =
        |symbol: object::Symbol<'_, '_>| {
            let start = symbol.address().wrapping_add(moved);
            let name = String::from_utf8_lossy(symbol.name_bytes().ok()?).into_owned();
            (symbol.kind() == SymbolKind::Text && symbol.is_definition() && symbol.size() > 0)
                .then_some(Symbol { start, end: start.checked_add(symbol.size())?, name })
        };
    // The whole table if there is one, else that for linking.
    let whole: Vec<Symbol> = elf.symbols().filter_map(symbol).collect();
    if whole.is_empty() { elf.dynamic_symbols().filter_map(symbol).collect() } else { whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_this_program_have_their_names() {
        let symbols = Symbols::of_this_process(false);
        let address = functions_of_this_program_have_their_names as fn() as usize as u64;
        let name = symbols.name(address);
        assert!(name.contains("functions_of_this_program_have_their_names"), "{name}");
        assert!(symbols.mapping(address).is_some());
        assert_eq!(symbols.name(7), "[unknown]");
        assert_eq!(symbols.name(u64::MAX - 7), "[kernel]");
    }

    #[test]
    fn kernel_symbols_reach_up_to_the_next() {
        let told = "ffffffff81000000 T first\nffffffff81000100 t second\nffffffff81000080 D data\n";
        let symbols = Symbols { sorted: kernel(told), ..Symbols::default() };
        assert_eq!(symbols.name(0xffff_ffff_8100_00ff), "first");
        assert_eq!(symbols.name(0xffff_ffff_8100_0100), "second");
        assert!(kernel("0000000000000000 T hidden\n").is_empty());
    }

    #[test]
    fn a_file_that_is_cut_or_lies_has_no_symbols_and_does_no_harm() {
        let whole = fs::read("/proc/self/exe").unwrap_or_default();
        let mapping = Mapping { start: 0x1000, end: 0x2000, offset: 0, path: String::new() };
        for length in [0, 4, 5, 63, 64, 100, 4096, whole.len() / 2] {
            let _ = functions(&whole[..length.min(whole.len())], &mapping);
        }
        let mut lying = whole[..4096.min(whole.len())].to_vec();
        for at in 16..64 {
            let kept = lying[at];
            lying[at] = 0xff;
            let _ = functions(&lying, &mapping);
            lying[at] = kept;
        }
    }
}
