//! How much stack functions take that call each other, as the verifier of Linux 5.10 adds it up (`check_max_stack_depth`): each frame in
//! steps of 32 bytes, 512 together, eight frames. Newer ones count less, so only old kernels would refuse what has grown.
//!
//! Calls and accesses count whether or not the kernel ever gets there: what is off is dead code to it, and on for somebody else.

use std::collections::BTreeMap;

use super::elf::{Call, Function, Instruction, Object};

pub const LIMIT_BYTES: usize = 512;
pub const LIMIT_FRAMES: usize = 8;
const STEP_BYTES: usize = 32;
/// A function that takes none counts as if it took some.
const LEAST_BYTES: usize = 1;
const FRAME_POINTER: u8 = 10;

/// Functions that call each other, outermost first, with the bytes that each takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain(pub Vec<(String, usize)>);

impl Chain {
    /// As the kernel counts.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(_, bytes)| (*bytes).max(LEAST_BYTES).next_multiple_of(STEP_BYTES)).sum()
    }

    pub fn fits(&self) -> bool {
        self.bytes() <= LIMIT_BYTES && self.0.len() <= LIMIT_FRAMES
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let frames: Vec<String> = self.0.iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
        write!(out, "{} bytes in {} frames: {}", self.bytes(), self.0.len(), frames.join(" > "))
    }
}

/// How far below the frame pointer a function reaches, bytes: by loads and stores, and by addresses that it takes for helpers, whatever
/// register holds them. Control flow is not followed: clang makes an address where it uses it.
pub fn own_bytes(code: &[Instruction]) -> usize {
    let mut deepest = 0;
    // What a register is above the frame pointer, if it is known to be of it.
    let mut of_frame: [Option<i64>; 16] = [None; 16];
    of_frame[usize::from(FRAME_POINTER)] = Some(0);
    let mut reach = |at: i64| deepest = deepest.min(at);
    for instruction in code {
        let Instruction { code, destination, source, offset, immediate, .. } = *instruction;
        let (from, to) = (usize::from(source), usize::from(destination));
        match code & 7 {
            // Loads; the first one is an immediate, or the second half of one.
            1 => {
                if let Some(base) = of_frame[from] {
                    reach(base + i64::from(offset));
                }
                of_frame[to] = None;
            }
            0 if code != 0 => of_frame[to] = None,
            2 | 3 => {
                if let Some(base) = of_frame[to] {
                    reach(base + i64::from(offset));
                }
            }
            // 64-bit mov of a register and addition of a constant; whatever else is done to it makes it a number.
            7 if code == 0xbf && offset == 0 => of_frame[to] = of_frame[from],
            7 if code == 0x07 => of_frame[to] = of_frame[to].map(|base| base + i64::from(immediate)),
            4 | 7 => of_frame[to] = None,
            5 if instruction.call.is_some() => of_frame[..=5].fill(None),
            // Whoever comes here next comes from elsewhere.
            5 if matches!(code, 0x05 | 0x95) => of_frame[..usize::from(FRAME_POINTER)].fill(None),
            _ => {}
        }
        if let Some(address) = of_frame[to] {
            reach(address);
        }
    }
    usize::try_from(-deepest).expect("below the frame pointer")
}

/// The chain from a function on that takes most bytes, and the one with most frames if that is another.
pub fn deepest(object: &Object, from: &Function) -> Vec<Chain> {
    let at = object.functions.iter().position(|function| std::ptr::eq(function, from)).expect("its own");
    let more_bytes = |chain: &Chain| (chain.bytes(), chain.0.len());
    let more_frames = |chain: &Chain| (chain.0.len(), chain.bytes());
    let mut chains = vec![
        longest(object, at, &more_bytes, &mut BTreeMap::new()),
        longest(object, at, &more_frames, &mut BTreeMap::new()),
    ];
    chains.dedup();
    chains
}

fn longest(
    object: &Object,
    at: usize,
    by: &impl Fn(&Chain) -> (usize, usize),
    known: &mut BTreeMap<usize, Option<Chain>>,
) -> Chain {
    match known.get(&at) {
        Some(Some(chain)) => return chain.clone(),
        Some(None) => panic!("{} calls itself", object.functions[at].name),
        None => known.insert(at, None),
    };
    let function = &object.functions[at];
    let mut below = Chain::default();
    for instruction in &function.instructions {
        if let Some(Call::Function(callee)) = instruction.call {
            let chain = longest(object, callee, by, known);
            if by(&chain) > by(&below) {
                below = chain;
            }
        }
    }
    let mut chain = Chain(vec![(function.name.clone(), own_bytes(&function.instructions))]);
    chain.0.append(&mut below.0);
    known.insert(at, Some(chain.clone()));
    chain
}
