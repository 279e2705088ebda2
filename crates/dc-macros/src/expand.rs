//! What the derives expand to.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Path, Result, parse_quote, parse2};

use crate::attributes::{Attributes, bare_name};

pub(crate) fn remote_actor(input: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = parse2(input)?;
    let attributes = Attributes::read(&input, &["name", "crate"])?;
    let name = attributes.name.map_or_else(|| bare_name(&input), Ok)?;
    let krate = attributes.krate.unwrap_or_else(|| parse_quote!(::multidc));
    let ident = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl #krate::RemoteActor for #ident {
            const KIND: &'static str = #name;
        }
    })
}

pub(crate) fn remote_message(input: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = parse2(input)?;
    let attributes = Attributes::read(&input, &["name", "codec", "reply", "crate"])?;
    let name = attributes.name.map_or_else(|| bare_name(&input), Ok)?;
    let krate = attributes.krate.unwrap_or_else(|| parse_quote!(::multidc));
    let codec = codec_path(attributes.codec, &krate);
    let reply = attributes.reply.map_or_else(|| codec.clone(), |reply| codec_path(Some(reply), &krate));
    let ident = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl #krate::RemoteMessage for #ident {
            const NAME: &'static str = #name;
            type Codec = #codec;
            type ReplyCodec = #reply;
        }
    })
}

/// `serde` and `prost` are short for our codecs; anything else is the path of a codec.
fn codec_path(given: Option<Path>, krate: &Path) -> Path {
    match given {
        None => parse_quote!(#krate::codec::Postcard),
        Some(path) if path.is_ident("serde") => parse_quote!(#krate::codec::Postcard),
        Some(path) if path.is_ident("prost") => parse_quote!(#krate::codec::Prost),
        Some(path) => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(expand: fn(TokenStream) -> Result<TokenStream>, input: TokenStream) -> String {
        expand(input).expect_err("must be refused").to_string()
    }

    #[test]
    fn the_bare_name_is_the_default() {
        let out = remote_actor(quote! { pub struct Worker { jobs: u32 } }).unwrap().to_string();
        assert!(out.contains("impl :: multidc :: RemoteActor for Worker"), "{out}");
        assert!(out.contains(r#"KIND : & 'static str = "Worker""#), "{out}");
    }

    #[test]
    fn name_codec_reply_and_crate_are_taken() {
        let out = remote_message(quote! {
            #[remote(name = "analyse", codec = prost)]
            #[remote(reply = serde, crate = "dc_actor")]
            struct Analyse;
        });
        let out = out.unwrap().to_string();
        assert!(out.contains("impl dc_actor :: RemoteMessage for Analyse"), "{out}");
        assert!(out.contains(r#""analyse""#), "{out}");
        assert!(out.contains("type Codec = dc_actor :: codec :: Prost"), "{out}");
        assert!(out.contains("type ReplyCodec = dc_actor :: codec :: Postcard"), "{out}");
    }

    #[test]
    fn the_reply_follows_the_message_and_a_path_is_a_codec() {
        let out = remote_message(quote! { #[remote(codec = my::Json)] struct M; }).unwrap().to_string();
        assert!(out.contains("type Codec = my :: Json"), "{out}");
        assert!(out.contains("type ReplyCodec = my :: Json"), "{out}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (input, want) in [
            (quote! { #[remote(nam = "x")] struct M; }, "unknown key, expected one of: name, codec, reply, crate"),
            (quote! { #[remote(name = "")] struct M; }, r#"wire name "" must be 1 to 63 bytes"#),
            (quote! { #[remote(name = " x")] struct M; }, "must not begin or end with a blank"),
            (quote! { #[remote(name = "a\nb")] struct M; }, "must not hold control characters"),
            (quote! { #[remote(name = "a", name = "b")] struct M; }, "given twice"),
            (quote! { #[remote(name = 7)] struct M; }, "expected string literal"),
            (quote! { struct M<T>(T); }, "generic types have no single wire name"),
        ] {
            let got = refused(remote_message, input);
            assert!(got.contains(want), "{got:?} should say {want:?}");
        }
        let got = refused(remote_actor, quote! { #[remote(codec = prost)] struct W; });
        assert!(got.contains("unknown key, expected one of: name, crate"), "{got}");
    }
}
