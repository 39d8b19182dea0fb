//! The macro behind the table of operations.

/// Declares all operations; see `table.rs` for how it is used and `mod.rs` for what follows.
macro_rules! operations {
    ($(
        $(#[doc = $doc:literal])+
        $Variant:ident($Args:ident) = $CONST:ident $code:literal $name:literal {
            feature: $feature:ident,
            since: ($major:literal, $minor:literal),
            arguments: { $($(#[doc = $arg_doc:literal])+ $arg:ident: $kind:ident in $unit:literal,)* },
            result: $result:literal,
            errors: [$($error:ident),*],
        }
    )+) => {
        impl Opcode {
            $($(#[doc = $doc])+ pub const $CONST: Opcode = Opcode($code);)+
        }

        $(
            #[doc = concat!("Arguments of `", $name, "`:")]
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $Args {
                $($(#[doc = $arg_doc])+ pub $arg: $kind,)*
            }

            impl $Args {
                /// The argument words of a submission.
                pub fn encode(self) -> [u64; ARG_WORDS] {
                    let values: &[u64] = &[$(ArgWord::to_word(self.$arg)),*];
                    let mut words = [0; ARG_WORDS];
                    for (word, value) in words.iter_mut().zip(values) {
                        *word = *value;
                    }
                    words
                }

                /// Reads argument words; refuses what this operation does not use (`[OP-2]`).
                pub fn decode(words: &[u64; ARG_WORDS]) -> Result<Self, Status> {
                    let mut words = words.iter().copied();
                    let args = Self {
                        $($arg: words
                            .next()
                            .and_then(ArgWord::from_word)
                            .ok_or(Status::RESERVED_BITS)?,)*
                    };
                    if words.all(|word| word == 0) {
                        Ok(args)
                    } else {
                        Err(Status::RESERVED_BITS)
                    }
                }

                /// The call with these arguments.
                pub fn submission(self, tag: u64) -> Submission {
                    Submission::new(Opcode::$CONST, tag, self.encode())
                }
            }
        )+

        /// A decoded call, for the host to carry out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Request {
            $($(#[doc = $doc])+ $Variant($Args),)+
            /// A call of the experimental range.
            Experimental(ExperimentalArgs),
        }

        impl Request {
            /// Reads the arguments of a known operation.
            pub(super) fn decode_args(
                opcode: Opcode,
                words: &[u64; ARG_WORDS],
            ) -> Result<Request, Status> {
                match opcode {
                    $(Opcode::$CONST => $Args::decode(words).map(Request::$Variant),)+
                    _ => Err(Status::UNKNOWN_OPCODE),
                }
            }
        }

        /// All operations, in order of opcode.
        pub const OPERATIONS: &[Operation] = &[$(Operation {
            name: $name,
            opcode: Opcode::$CONST,
            purpose: concat!($($doc),+),
            feature: Features::$feature,
            since: Version { major: $major, minor: $minor },
            arguments: &[$(Argument {
                name: stringify!($arg),
                kind: stringify!($kind),
                unit: $unit,
            }),*],
            result: $result,
            errors: &[$(Status::$error),*],
            counter: concat!("op_", $name),
        }),+];
    };
}

pub(super) use operations;
