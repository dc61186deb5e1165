//! As much of ELF as a BPF object needs: 64 bits, little-endian, functions, their instructions, and whom they call.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

/// How one instruction names another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A helper, by number.
    Helper(u32),
    /// A function of the object.
    Function(usize),
    /// A function of the kernel's, by symbol.
    Kernel(usize),
}

#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    pub code: u8,
    pub destination: u8,
    pub source: u8,
    pub offset: i16,
    pub immediate: i32,
    pub call: Option<Call>,
    /// A function of the object is named where data should be: a callback.
    pub takes_function: bool,
}

#[derive(Debug)]
pub struct Function {
    pub name: String,
    /// Section: a program's says what kind it is, all others' is `.text`.
    pub section: String,
    pub instructions: Vec<Instruction>,
}

#[derive(Debug)]
pub struct Symbol {
    pub name: String,
    pub weak: bool,
    kind: u8,
    section: usize,
    value: usize,
    size: usize,
}

#[derive(Debug)]
pub struct Object {
    pub functions: Vec<Function>,
    pub symbols: Vec<Symbol>,
}

struct Section {
    name: String,
    kind: u32,
    executable: bool,
    at: usize,
    size: usize,
    link: usize,
    info: usize,
}

const FUNCTION: u8 = 2;
const SECTION: u8 = 3;
const CALL: u8 = 0x85;
const LOAD_64: u8 = 0x18;

fn number<const N: usize>(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + N].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

fn text(bytes: &[u8], at: usize) -> String {
    bytes[at..].iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
}

fn sections(bytes: &[u8]) -> Vec<Section> {
    assert!(bytes.starts_with(b"\x7fELF\x02\x01"), "64 bits, little-endian");
    let (table, count, names) = (number::<8>(bytes, 40), number::<2>(bytes, 60), number::<2>(bytes, 62));
    let head = |index: usize| table + index * 64;
    let names_at = number::<8>(bytes, head(names) + 24);
    (0..count)
        .map(|index| {
            let at = head(index);
            Section {
                name: text(bytes, names_at + number::<4>(bytes, at)),
                kind: number::<4>(bytes, at + 4) as u32,
                executable: number::<8>(bytes, at + 8) & 4 != 0,
                at: number::<8>(bytes, at + 24),
                size: number::<8>(bytes, at + 32),
                link: number::<4>(bytes, at + 40),
                info: number::<4>(bytes, at + 44),
            }
        })
        .collect()
}

fn symbols(bytes: &[u8], sections: &[Section]) -> Vec<Symbol> {
    let table = sections.iter().find(|section| section.kind == 2).expect("a symbol table");
    let names_at = sections[table.link].at;
    (table.at..table.at + table.size)
        .step_by(24)
        .map(|at| Symbol {
            name: text(bytes, names_at + number::<4>(bytes, at)),
            weak: bytes[at + 4] >> 4 == 2,
            kind: bytes[at + 4] & 15,
            section: number::<2>(bytes, at + 6),
            value: number::<8>(bytes, at + 8),
            size: number::<8>(bytes, at + 16),
        })
        .collect()
}

impl Object {
    pub fn read(bytes: &[u8]) -> Self {
        let sections = sections(bytes);
        let symbols = symbols(bytes, &sections);
        let is_function = |symbol: &Symbol| symbol.kind == FUNCTION && sections[symbol.section].executable;
        let bodies: Vec<&Symbol> = symbols.iter().filter(|symbol| is_function(symbol)).collect();
        let function_at = |section: usize, value: usize| {
            bodies.iter().position(|body| body.section == section && body.value == value)
        };
        // Section and offset of an instruction → symbol.
        let mut relocations = BTreeMap::new();
        for section in sections.iter().filter(|section| section.kind == 9) {
            for at in (section.at..section.at + section.size).step_by(16) {
                let symbol = number::<8>(bytes, at + 8) >> 32;
                relocations.insert((section.info, number::<8>(bytes, at)), symbol);
            }
        }
        let instruction = |body: &Symbol, place: usize| {
            let at = sections[body.section].at + place;
            let immediate = number::<4>(bytes, at + 4) as u32 as i32;
            let (code, registers) = (bytes[at], bytes[at + 1]);
            let relocation = relocations.get(&(body.section, place)).map(|index| (*index, &symbols[*index]));
            let near = |from: usize| (from as i64 + (i64::from(immediate) + 1) * 8) as usize;
            let call = (code == CALL).then(|| match (registers >> 4, relocation) {
                (0, None) => Call::Helper(immediate as u32),
                (_, Some((index, symbol))) if symbol.section == 0 => Call::Kernel(index),
                (1, Some((_, symbol))) => {
                    let value = if symbol.kind == SECTION { near(0) } else { symbol.value };
                    Call::Function(function_at(symbol.section, value).expect("a function is called"))
                }
                (1, None) => Call::Function(function_at(body.section, near(place)).expect("a function")),
                other => panic!("{}: no known kind of call: {other:?}", body.name),
            });
            let names_code = relocation.is_some_and(|(_, symbol)| sections[symbol.section].executable);
            Instruction {
                code,
                destination: registers & 15,
                source: registers >> 4,
                offset: number::<2>(bytes, at + 2) as u16 as i16,
                immediate,
                call,
                takes_function: code == LOAD_64 && names_code,
            }
        };
        let functions = bodies
            .iter()
            .map(|body| Function {
                name: body.name.clone(),
                section: sections[body.section].name.clone(),
                instructions: (body.value..body.value + body.size)
                    .step_by(8)
                    .map(|place| instruction(body, place))
                    .collect(),
            })
            .collect();
        Self { functions, symbols }
    }

    /// Everything that a kernel loads on its own, and the functions that it reaches, itself among them.
    pub fn programs(&self) -> Vec<(&Function, BTreeSet<usize>)> {
        let main = self.functions.iter().enumerate().filter(|(_, function)| function.section != ".text");
        main.map(|(index, function)| (function, self.reached(index))).collect()
    }

    fn reached(&self, from: usize) -> BTreeSet<usize> {
        let (mut reached, mut next) = (BTreeSet::from([from]), vec![from]);
        while let Some(index) = next.pop() {
            for instruction in &self.functions[index].instructions {
                if let Some(Call::Function(callee)) = instruction.call
                    && reached.insert(callee)
                {
                    next.push(callee);
                }
            }
        }
        reached
    }
}
