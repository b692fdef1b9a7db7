package interop;

import static interop.Report.contains;
import static interop.Report.equal;
import static interop.Report.refused;

import io.dapr.client.domain.ConversationInput;
import io.dapr.client.domain.ConversationInputAlpha2;
import io.dapr.client.domain.ConversationMessageContent;
import io.dapr.client.domain.ConversationRequest;
import io.dapr.client.domain.ConversationRequestAlpha2;
import io.dapr.client.domain.DecryptRequestAlpha1;
import io.dapr.client.domain.EncryptRequestAlpha1;
import io.dapr.client.domain.UserMessage;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import reactor.core.publisher.Flux;

/** Cryptography and conversation. */
record CryptoChecks(Main.App app) {
  private static final String KEYS = "java-keys";
  private static final String MODEL = "java-model";

  void run(Report r) {
    for (String cipher : List.of("", "aes-gcm", "chacha20-poly1305")) {
      r.check("crypto: what is encrypted comes back, cipher \"" + cipher + "\"", () -> roundTrip(cipher));
    }
    r.check("crypto: what was changed on the way is refused", () -> {
      byte[] sealed = join(encrypt(List.of("secret".getBytes()), ""));
      sealed[sealed.length - 1] ^= 1;
      contains(refused(() -> decrypt(sealed)).getErrorCode(), "DECRYPT_ERROR");
    });
    r.check("crypto: a key that does not exist is named in the error", () -> {
      var request = new EncryptRequestAlpha1(KEYS, Flux.just(new byte[] {1}), "no-such-key", "A256KW");
      contains(refused(() -> app.preview().encrypt(request).blockLast()).getMessage(), "no-such-key");
    });
    r.check("conversation: a model answers", this::converse);
  }

  private void roundTrip(String cipher) throws Exception {
    Path key = Path.of(Main.env("INTEROP_FILES"), "java-key.json");
    String secret = Base64.getUrlEncoder().withoutPadding().encodeToString("a key of thirty-two octets, yes!".getBytes(StandardCharsets.US_ASCII));
    Files.writeString(key, "{\"kty\":\"oct\",\"k\":\"" + secret + "\"}");
    List<byte[]> plain = new ArrayList<>();
    for (int i = 0; i < 10; i++) {
      plain.add(("chunk " + i + " ").repeat(3000).getBytes(StandardCharsets.US_ASCII));
    }
    byte[] sealed = join(encrypt(plain, cipher));
    equal(new String(sealed, StandardCharsets.ISO_8859_1).contains("chunk"), false, "it shows");
    equal(decrypt(sealed), join(plain), "plain text");
  }

  private List<byte[]> encrypt(List<byte[]> plain, String cipher) {
    var request = new EncryptRequestAlpha1(KEYS, Flux.fromIterable(plain), "java-key.json", "A256KW");
    return app.preview().encrypt(cipher.isEmpty() ? request : request.setDataEncryptionCipher(cipher)).collectList().block();
  }

  private byte[] decrypt(byte[] sealed) throws Exception {
    return join(app.preview().decrypt(new DecryptRequestAlpha1(KEYS, Flux.just(sealed))).collectList().block());
  }

  private static byte[] join(List<byte[]> chunks) throws Exception {
    var out = new ByteArrayOutputStream();
    for (byte[] chunk : chunks) {
      out.write(chunk);
    }
    return out.toByteArray();
  }

  @SuppressWarnings({"deprecation", "removal"}) // of converse, which applications still call
  private void converse() {
    var message = new UserMessage(List.of(new ConversationMessageContent("ahoy")));
    var request = new ConversationRequestAlpha2(MODEL, List.of(new ConversationInputAlpha2(List.of(message))));
    var answer = app.preview().converseAlpha2(request).block().getOutputs().get(0);
    equal(answer.getChoices().get(0).getMessage().getContent(), "ahoy", "answer");
    var older = app.preview().converse(new ConversationRequest(MODEL, List.of(new ConversationInput("ahoy")))).block();
    equal(older.getConversationOutputs().get(0).getResult(), "ahoy", "answer of the older call");
    var nowhere = new ConversationRequestAlpha2("nomodel", List.of(new ConversationInputAlpha2(List.of(message))));
    contains(refused(() -> app.preview().converseAlpha2(nowhere).block()).getMessage(), "nomodel");
  }
}
