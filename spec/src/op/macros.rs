//! The macro behind the tables of operations.

/// Declares a table of operations; see `table.rs` for how it is used and `mod.rs` for what follows.
macro_rules! operations {
    (
        $(#[doc = $enum_doc:literal])+
        enum $Request:ident $(, or $Other:ident($OtherArgs:ident))?;
        $(#[doc = $list_doc:literal])+
        list $LIST:ident;
        $(#[doc = $trait_doc:literal])+
        trait $Serve:ident;

        $($(#[doc = $doc:literal])+
        $Variant:ident($Args:ident) = $CONST:ident $code:literal $name:ident {
            feature: $feature:ident,
            since: ($major:literal, $minor:literal),
            arguments: { $($(#[doc = $arg_doc:literal])+ $arg:ident: $kind:ident in $unit:literal,)* },
            result: $result:literal,
            errors: [$($error:ident),*],
        }
    )*) => {
        impl Opcode {
            $($(#[doc = $doc])+ pub const $CONST: Opcode = Opcode($code);)*
        }

        $(
            #[doc = concat!("Arguments of `", stringify!($name), "`:")]
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $Args {
                $($(#[doc = $arg_doc])+ pub $arg: $kind,)*
            }

            impl $Args {
                /// The argument words of a submission.
                pub fn encode(self) -> [u64; ARG_WORDS] {
                    let values: &[u64] = &[$(crate::op::ArgWord::to_word(self.$arg)),*];
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
                            .and_then(crate::op::ArgWord::from_word)
                            .ok_or(Status::RESERVED_BITS)?,)*
                    };
                    if words.all(|word| word == 0) {
                        Ok(args)
                    } else {
                        Err(Status::RESERVED_BITS)
                    }
                }

                /// The call with these arguments.
                pub fn submission(self, tag: u64) -> crate::entry::Submission {
                    crate::entry::Submission::new(Opcode::$CONST, tag, self.encode())
                }
            }
        )*

        $(#[doc = $enum_doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Request {
            $($(#[doc = $doc])+ $Variant($Args),)*
            $(
                /// A call of the experimental range.
                $Other($OtherArgs),
            )?
        }

        $(#[doc = $trait_doc])+
        ///
        /// What an operation says of itself in the table is for its function to check; opcode,
        /// feature, flags and the width of arguments have been checked before (`[OP-2]`).
        pub trait $Serve {
            $($(#[doc = $doc])+ fn $name(&mut self, args: $Args) -> Result<Answer, Status>;)*
            $(
                /// A call of the experimental range.
                fn experimental(&mut self, args: $OtherArgs) -> Result<Answer, Status>;
            )?
        }

        impl $Request {
            /// Reads the arguments of an operation of this table.
            pub fn decode_args(opcode: Opcode, words: &[u64; ARG_WORDS]) -> Result<Self, Status> {
                match (opcode, words) {
                    $((Opcode::$CONST, words) => $Args::decode(words).map(Self::$Variant),)*
                    _ => Err(Status::UNKNOWN_OPCODE),
                }
            }

            /// The argument words it was decoded from.
            pub fn encode(self) -> [u64; ARG_WORDS] {
                match self {
                    $(Self::$Variant(args) => args.encode(),)*
                    $(Self::$Other($OtherArgs { args, .. }) => args,)?
                }
            }

            /// Has its function carry it out.
            #[allow(unused_variables, reason = "a table may be empty")]
            pub fn serve(self, server: &mut impl $Serve) -> Result<Answer, Status> {
                match self {
                    $(Self::$Variant(args) => server.$name(args),)*
                    $(Self::$Other(args) => server.experimental(args),)?
                }
            }
        }

        $(#[doc = $list_doc])+
        pub const $LIST: &[Operation] = &[$(Operation {
            name: stringify!($name),
            opcode: Opcode::$CONST,
            purpose: concat!($($doc),+),
            feature: crate::version::Features::$feature,
            since: crate::version::Version { major: $major, minor: $minor },
            arguments: &[$(crate::op::Argument {
                name: stringify!($arg),
                kind: stringify!($kind),
                unit: $unit,
            }),*],
            result: $result,
            errors: &[$(Status::$error),*],
            counter: concat!("op_", stringify!($name)),
        }),*];
    };
}

pub(super) use operations;
