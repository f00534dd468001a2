// Verifies a token with the settings of the guide: PARTY TYP JWKS-FILE ISSUER AUDIENCE TOKEN. PARTY is spring
// or nimbus. TYP is "default", as the library is set up, or the type that it shall expect. Prints the claims;
// exit 1 and the reason if the token is refused.

import com.nimbusds.jose.JOSEObjectType;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.jwk.JWKSet;
import com.nimbusds.jose.jwk.source.ImmutableJWKSet;
import com.nimbusds.jose.proc.DefaultJOSEObjectTypeVerifier;
import com.nimbusds.jose.proc.JWSVerificationKeySelector;
import com.nimbusds.jose.proc.SecurityContext;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.proc.DefaultJWTClaimsVerifier;
import com.nimbusds.jwt.proc.DefaultJWTProcessor;
import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.List;
import java.util.Set;
import org.springframework.security.oauth2.core.DelegatingOAuth2TokenValidator;
import org.springframework.security.oauth2.jose.jws.SignatureAlgorithm;
import org.springframework.security.oauth2.jwt.JwtClaimValidator;
import org.springframework.security.oauth2.jwt.JwtValidators;
import org.springframework.security.oauth2.jwt.NimbusJwtDecoder;

public class Verify {
    public static void main(String[] args) throws Exception {
        String party = args[0], typ = args[1], issuer = args[3], audience = args[4], token = args[5];
        Path keys = Path.of(args[2]);
        try {
            if (party.equals("spring")) {
                spring(typ, keys, issuer, audience, token);
            } else {
                nimbus(typ, keys, issuer, audience, token);
            }
        } catch (Exception refused) {
            System.err.println("invalid: " + refused.getMessage());
            System.exit(1);
        }
        byte[] claims = Base64.getUrlDecoder().decode(token.split("\\.")[1]);
        System.out.println(new String(claims, StandardCharsets.UTF_8));
        System.exit(0);
    }

    /** As Spring Boot makes it of `jwk-set-uri`, `jws-algorithms`, `issuer-uri` and `audiences`. */
    static void spring(String typ, Path keys, String issuer, String audience, String token)
            throws Exception {
        byte[] document = Files.readAllBytes(keys);
        InetSocketAddress address = new InetSocketAddress(InetAddress.getLoopbackAddress(), 0);
        HttpServer server = HttpServer.create(address, 0);
        server.createContext("/jwks.json", exchange -> {
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(200, document.length);
            exchange.getResponseBody().write(document);
            exchange.close();
        });
        server.start();
        String url = "http://127.0.0.1:" + server.getAddress().getPort() + "/jwks.json";
        NimbusJwtDecoder.JwkSetUriJwtDecoderBuilder builder =
                NimbusJwtDecoder.withJwkSetUri(url).jwsAlgorithm(SignatureAlgorithm.ES256);
        if (!typ.equals("default")) {
            builder.jwtProcessorCustomizer(processor -> processor.setJWSTypeVerifier(
                    new DefaultJOSEObjectTypeVerifier<>(new JOSEObjectType(typ))));
        }
        NimbusJwtDecoder decoder = builder.build();
        decoder.setJwtValidator(new DelegatingOAuth2TokenValidator<>(
                JwtValidators.createDefaultWithIssuer(issuer),
                new JwtClaimValidator<List<String>>("aud", aud -> aud.contains(audience))));
        decoder.decode(token);
    }

    static void nimbus(String typ, Path keys, String issuer, String audience, String token)
            throws Exception {
        JWKSet set = JWKSet.load(keys.toFile());
        DefaultJWTProcessor<SecurityContext> processor = new DefaultJWTProcessor<>();
        processor.setJWSKeySelector(
                new JWSVerificationKeySelector<>(JWSAlgorithm.ES256, new ImmutableJWKSet<>(set)));
        if (!typ.equals("default")) {
            processor.setJWSTypeVerifier(new DefaultJOSEObjectTypeVerifier<>(new JOSEObjectType(typ)));
        }
        processor.setJWTClaimsSetVerifier(new DefaultJWTClaimsVerifier<>(
                audience, new JWTClaimsSet.Builder().issuer(issuer).build(), Set.of("sub", "exp")));
        processor.process(token, null);
    }
}
