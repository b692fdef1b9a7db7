package interop;

import com.google.protobuf.ByteString;
import io.dapr.exceptions.DaprErrorDetails.ErrorDetailType;
import io.dapr.exceptions.DaprException;
import io.dapr.utils.TypeRef;

/** Reads the details of errors. */
final class Errors {
  private Errors() {}

  /** Returns the reason of an error, or null. */
  static String reason(DaprException e) {
    return detail(e, ErrorDetailType.ERROR_INFO, "reason");
  }

  /** Returns the name of the resource that an error is about, or null. */
  static String resource(DaprException e) {
    return detail(e, ErrorDetailType.RESOURCE_INFO, "resourceName");
  }

  /** The SDK shows the fields of a message as they are within the message. */
  private static String detail(DaprException e, ErrorDetailType type, String field) {
    Object value = e.getErrorDetails().get(type, field, TypeRef.get(Object.class));
    return value instanceof ByteString bytes ? bytes.toStringUtf8() : (String) value;
  }
}
